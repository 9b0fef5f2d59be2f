"""A person in films of a crawled store, forgotten: in no file of it, and at no later crawl."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from PIL import Image

import pipelines.video.watch
from infra.storage import open_folder
from pipelines.cli import main
from pipelines.forget import find, show
from pipelines.video.exported import read_clips, read_pairs
from tests.pipelines.test_forget_web import holding
from tests.pipelines.video import films
from tests.pipelines.video.films import HE, SHE
from tests.stages.video import made
from tests.stages.web.hostile_web import Web, answer, serving

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("local_ray"),
]
NAME = "Ada Quillfeather"
HERS = {"/her.mp4": (SHE,), "/both.mp4": (HE, SHE)}
HIS = {"/his.mp4": (HE,), "/again.mp4": (HE,)}
FRAMES = {"/her.mp4": 60, "/both.mp4": 74, "/his.mp4": 60, "/again.mp4": 66}
"""Of each shot: he has another template in every film, for hers are looked for byte by byte."""


class Crawled:
    """A store that knows her from films on the web."""

    def __init__(self, home, site, bodies):
        self.home, self.site, self.store = home, site, home / "store"
        self.paths = [*bodies, "/page.mp4", "/gone.mp4"]

    def crawl(self, paths=(), **fetch):
        self.paths += paths
        rows = [
            {"url": f"{self.site}{path}", "caption": "", "label": "" if path in HIS else NAME}
            for path in self.paths
        ]
        pq.write_table(pa.Table.from_pylist(rows), self.home / "urls.parquet")
        fetch = {"allow_loopback": True, "attempts": 1, "contact": "", **fetch}
        return films.run(films.recipe(self.home / "urls.parquet", fetch=fetch), self.store)[0]

    def interrupt(self, **fetch):
        """Begin another crawl, and let it die when all is watched and nothing is recorded."""
        whole = pipelines.video.watch.map_rows

        def dying(*args, **more):
            whole(*args, **more)
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipelines.video.watch, "map_rows", dying)
            with pytest.raises(KeyboardInterrupt):
                self.crawl(**fetch)


@pytest.fixture(scope="module")
def crawled(tmp_path_factory, local_ray):  # noqa: ARG001 - Ray only has to be there
    home = tmp_path_factory.mktemp("crawled")
    bodies = {}
    for path, people in (HERS | HIS).items():
        film = films.film(home / path[1:], people, FRAMES[path])
        bodies[path] = film.read_bytes()
    bodies["/mirror.mp4"] = bodies["/her.mp4"]
    pages = {path: answer(body) for path, body in bodies.items()}
    pages |= {
        "/page.mp4": answer(b"<html>"),
        "/gone.mp4": answer(status=404),
        "/new.mp4": pages["/her.mp4"],
    }
    Image.fromarray(made.portrait(SHE)).save(home / "she.png")
    with serving(Web(more=pages)) as site:
        yield Crawled(home, site, bodies)


@pytest.fixture(scope="module")
def first(crawled):
    return crawled.crawl()


def rows_of(result):
    return pads.dataset(f"{result.path}/decisions").to_table().to_pylist()


def needles(result):
    """Return all that could tell of her, as files would hold it."""
    table = pads.dataset(f"{result.path}/keep/data").to_table().to_pylist()
    hers = [row for row in table if row["label"] == NAME and row["tracks"]]
    assert len(hers) == 4, "both and the mirror too"
    files = [Path(result.path, "watch/clips", row["file"]).read_bytes() for row in hers]
    vectors = [np.array(row["face_embeddings"][0], np.float32).tobytes() for row in hers]
    texts = {row[name] for row in hers for name in ("id", "video_id", "sha256", "url")}
    return {*files, *vectors, *(text.encode() for text in texts)}


def test_films_come_from_the_web_and_their_spool_does_not_stay(first):
    fates = {}
    for row in rows_of(first):
        place = row["url"].rpartition("/")[2]
        fates.setdefault(place, []).append(row["error"] or row["rejected_by"])
    twins = sorted([fates.pop("her.mp4"), fates.pop("mirror.mp4")])
    assert twins == [[""], ["exact_duplicate"]]
    assert fates == {
        "both.mp4": ["", ""], "his.mp4": [""], "again.mp4": [""],
        "page.mp4": ["wrong_type"], "gone.mp4": ["http_4xx"],
    }  # fmt: skip
    assert not Path(first.path, "watch/spool").exists()


def test_a_person_is_found_by_a_photo_by_a_clip_and_by_a_video(crawled, first):
    store = open_folder(str(crawled.store))
    clip = next(c for c in read_clips(Path(first.path, "export")) if c.url.endswith("both.mp4"))
    video = {row["id"] for row in rows_of(first) if row["url"] == clip.url} | {clip.video_id}
    assert set(find(store, "", clip.id).ids) == set(find(store, "", clip.video_id).ids) == video
    by_photo = find(store, str(crawled.home / "she.png"), "")
    assert len(by_photo.ids) == 4 + 3, "four clips of three videos"
    assert by_photo.runs == {first.run: 7}
    with Image.open(show(store, by_photo)) as sheet:
        assert sheet.size > (112, 112)
        assert len(sheet.convert("L").getcolors(256)) > 50, "faces are to be seen"


def test_a_forgotten_person_is_in_no_file_and_does_not_come_back(crawled, first, capsys):
    store = crawled.store
    hers = needles(first)
    crawled.interrupt(deadline_s=601.0)
    assert {path.split("/")[0] for path in holding(store, hers)} >= {first.run}
    assert list(store.glob("*/watch/spool/*.mp4"))

    (features := store / "features/shards").mkdir(parents=True)
    (features / "shard-00000.safetensors").write_bytes(b"latents of her")
    rows = [
        {"id": f"{clip.id}-0", "clip": clip.id} for clip in read_clips(Path(first.path, "export"))
    ]
    pq.write_table(pa.Table.from_pylist(rows), store / "features/index.parquet")
    (store / "features/features.json").write_text('{"corpus": "c0ffee"}')

    asked = ["forget", "--face", str(crawled.home / "she.png"), "--store", str(store)]
    assert main([*asked, "--yes", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["rows"] == 7
    assert told["features"] == {str(store / "features"): 3}, "both people of a film that goes"
    assert [words for words in told["told"] if "prepare them again" in words]
    assert not (store / "features").exists()
    assert holding(store, hers) == set()
    assert not list(store.glob("*/watch/spool/*"))
    assert_whole(first, forgotten=4)

    # The interrupted crawl goes on without her.
    assert_whole(crawled.crawl(deadline_s=601.0), forgotten=3)
    # Nor does the same film come back by another name.
    assert_whole(crawled.crawl(["/new.mp4"]), forgotten=4)
    assert holding(store, {needle for needle in hers if b"/mirror" not in needle}) == set()


def assert_whole(result, forgotten):
    """Check that only he is left, and that the run's records say so."""
    export = Path(result.path, "export")
    clips = read_clips(export)
    assert {clip.url.rpartition("/")[2] for clip in clips} == {path[1:] for path in HIS}
    assert {file.stem for file in (export / "clips").iterdir()} == {clip.id for clip in clips}
    left = {clip.id for clip in clips}
    assert {p.target_clip for p in read_pairs(export)} == left
    assert {p.reference_clip for p in read_pairs(export)} == left
    record = json.loads(Path(result.path, "run.json").read_text())
    assert record["reject"]["forgotten"] == forgotten
    assert record["keep"] == len(clips) == record["clips"]["keep"]
    assert record["people"]["identities"] == 1
    assert record["rows"] == len(rows_of(result)) == forgotten + 2 + 2
    if Path(result.path, "report.html").exists():
        assert "forgotten" in Path(result.path, "report.html").read_text()
