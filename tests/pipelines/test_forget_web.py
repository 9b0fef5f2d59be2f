"""A person in a crawled store, forgotten: in no file of it, and at no later crawl."""

import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

import pipelines.rows
from infra.lineage import CORPUS_TAG
from infra.mlflow_run import connect
from infra.storage import open_folder
from infra.tracking import tracking_uri
from pipelines.cli import main
from pipelines.curate import curate
from pipelines.features.recipes import lfw64
from pipelines.pairs import pairs
from pipelines.prepare import prepare
from pipelines.recipes import FetchSettings, Source, Workers, photos
from stages.people.settings import PairSettings
from tests.stages.web.hostile_web import Web, answer, serving
from training.features import Features, Prepared

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("local_ray"),
]
HERS = {"/ada/a.jpg": (60, 0, 400, 340), "/ada/b.jpg": (100, 0, 340, 240)}
OTHERS = {"/ben/a.jpg": (1050, 225, 1280, 455), "/cyd/a.jpg": (460, 210, 690, 440)}
NAME, CAPTION = "Ada Quillfeather", "Ada Quillfeather smiles before a shuttle"
SAID = Console(file=io.StringIO(), width=200)


def jpeg(picture, box):
    packed = io.BytesIO()
    picture.crop(box).resize((400, 400)).save(packed, "JPEG", quality=92)
    return packed.getvalue()


@pytest.fixture(scope="module")
def pictures(astronaut, six_people):
    """What is on the web, by path: she twice and once more by another address, and two others."""
    with Image.open(astronaut) as one, Image.open(six_people) as six:
        hers = {path: jpeg(one.convert("RGB"), box) for path, box in HERS.items()}
        others = {path: jpeg(six.convert("RGB"), box) for path, box in OTHERS.items()}
    return hers | {"/mirror/a.jpg": hers["/ada/a.jpg"]} | others


class Crawled:
    """A store that knows her from the web, and what there was of her before."""

    def __init__(self, home, web, site, pictures):
        self.home, self.web, self.site, self.pictures = home, web, site, pictures
        self.store, self.paths = home / "store", [*pictures, "/ill.jpg"]
        self.list(self.paths)
        base = photos()
        self.recipe = replace(
            base,
            source=Source(path=str(home / "urls.parquet"), license="CC0"),
            fetch=FetchSettings(allow_loopback=True, attempts=1),
            faces=replace(base.faces, detect_px=640),
            people=replace(base.people, min_photos=1, names=True),
            workers=Workers(lookers=1, block_rows=3, batch_rows=3),
        )

    def list(self, paths):
        """Write the table of what is to be crawled; hers are known by name."""
        hers = [path for path in paths if path.startswith(("/ada", "/mirror"))]
        rows = [
            {"url": f"{self.site}{path}", "caption": CAPTION if path in hers else "A person.",
             "label": NAME if path in hers else path[1:4]}
            for path in paths
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows), self.home / "urls.parquet")

    def crawl(self, errors=(), refresh=False, **fetch):
        recipe = replace(self.recipe, fetch=replace(self.recipe.fetch, **fetch))
        return curate(recipe, str(self.store), SAID, retry_errors=errors, refresh=refresh)

    def interrupt(self, **fetch):
        """Begin another crawl, and let it die when all is fetched and nothing is recorded."""
        whole = pipelines.rows.map_rows

        def dying(*args, **more):
            whole(*args, **more)
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipelines.rows, "map_rows", dying)
            with pytest.raises(KeyboardInterrupt):
                self.crawl(**fetch)

    def needles(self, result):
        """Return all that could tell of her, as files would hold it."""
        table = pads.dataset(f"{result.path}/ingest/data", partitioning="hive").to_table()
        rows = [row for row in table.to_pylist() if row["label"] == NAME]
        assert len(rows) == 3
        vectors = [np.array(row["face_embeddings"][0], np.float32) for row in rows]
        named = {row["identity"] for row in decided(result).values() if row["label"] == NAME}
        return {
            NAME.encode(), CAPTION.encode(),
            *(row["blob"] for row in rows),
            *(row["pdq"] for row in rows),
            *(vector.tobytes() for vector in vectors),
            *(vector.astype(np.float16).tobytes() for vector in vectors),
            *(row[name].encode() for row in rows for name in ("id", "sha256", "url")),
            *(identity.encode() for identity in named if identity),
        }  # fmt: skip


def scored(run, features):
    """Leave what training and evaluation on some features leave: a checkpoint, scores, a sheet."""
    (run / "step-0000010/export").mkdir(parents=True)
    (run / "evaluations/1").mkdir(parents=True)
    held = Prepared(features)
    held.features.write(run / "step-0000010/export")
    people = sorted(set(held.people))
    pq.write_table(pa.table({"person": people, "facesim": [0.5] * len(people)}),
                   run / "evaluations/1/people.parquet")  # fmt: skip
    (run / "evaluations/1/scores.json").write_text(json.dumps({"corpus": held.features.corpus}))
    (run / "evaluations/1/contact.png").write_bytes(b"png")


def decided(result):
    rows = pads.dataset(f"{result.path}/decisions").to_table().to_pylist()
    return {row["id"]: row for row in rows}


def fates(result):
    rows = decided(result).values()
    return sorted(row["rejected_by"] or row["error"] or row["url"].split("/", 3)[3] for row in rows)


def holding(folder, needles):
    """Return the files with any of the needles: in their bytes, and in what Parquet packs."""
    found = set()
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        if path.suffix == ".parquet":
            sink = pa.BufferOutputStream()
            table = pq.read_table(path, partitioning=None)
            pq.write_table(table, sink, compression="none", use_dictionary=False)
            data += sink.getvalue().to_pybytes()
        if any(needle in data for needle in needles):
            found.add(path.relative_to(folder).as_posix())
    return found


@pytest.fixture(scope="module")
def crawled(pictures, tmp_path_factory, local_ray):  # noqa: ARG001 - Ray only has to be there
    pages = {path: answer(data, ETag=f'"{path}"') for path, data in pictures.items()}
    web = Web(more=pages | {"/ill.jpg": answer(status=503)})
    with serving(web) as site:
        yield Crawled(tmp_path_factory.mktemp("crawled"), web, site, pictures)


def test_a_person_of_a_crawl_is_in_no_file_afterwards_and_in_no_later_crawl(crawled, capsys):
    first = crawled.crawl()
    crawled.interrupt(deadline_s=21.0)
    store, features = crawled.store, crawled.store / "features"
    made = pairs(first.path, f"{store}/pairs", PairSettings(min_pdq_distance=1), SAID)
    assert made.matches["pair"] == 2, "hers: the others have a photograph each"
    recipe = replace(lfw64(), corpus=first.path, people="identity", pairs=f"{store}/pairs")
    done = prepare(recipe, str(features), SAID)
    assert (done.samples, done.paired) == (4, 2)
    beside = features / "shards/shard-00009.part"  # as a crash leaves a shard
    beside.write_bytes((features / "shards/shard-00000.safetensors").read_bytes())
    scored(store / "tiny-1", features)
    client = connect(tracking_uri(open_folder(str(store))))
    client.create_registered_model("faces")
    corpus = Features.read(features).corpus
    client.create_model_version("faces", "export", tags={CORPUS_TAG: corpus})

    needles = crawled.needles(first)
    before = holding(store, needles)
    assert {path.split("/")[0] for path in before} >= {first.run, "pairs", "features"}
    photo = crawled.home / "her.jpg"
    photo.write_bytes(crawled.pictures["/ada/a.jpg"])
    words = ["forget", "--face", str(photo), "--store", str(store), "--yes", "--json"]
    capsys.readouterr()
    assert main(words) == 0
    said = capsys.readouterr()
    told = json.loads(said.out.splitlines()[-1])
    assert told["rows"] == 3
    assert told["models"] == ["faces/1"]
    assert told["features"] == {str(features): 2}
    assert told["trained"] == [str(store / "tiny-1")]
    assert "2 samples were taken out of" in said.err
    assert f"Checkpoints in {store}/tiny-1 were trained on them" in said.err.replace("\n", "")
    assert holding(store, needles) == set()

    held = Prepared(features)
    assert len(held) == 2
    assert held.references == {}
    assert pq.read_table(store / "tiny-1/evaluations/1/people.parquet").num_rows == 2
    assert not (store / "tiny-1/evaluations/1/contact.png").exists()
    assert pq.read_table(store / "pairs/pairs.parquet").num_rows == 0
    record = json.loads((store / "pairs/pairs.json").read_text())
    assert record["paired"]["matches"] == {}

    # The crawl that died goes on. Another, of a list that has her under one more address, asks for
    # that one alone, and keeps nothing of it. A second chance asks for none of hers.
    others = ["ben/a.jpg", "cyd/a.jpg", "forgotten", "forgotten", "forgotten", "http_5xx"]
    assert fates(crawled.crawl(deadline_s=21.0)) == others
    crawled.web.asked.clear()
    assert fates(crawled.crawl(errors=("http_5xx",))) == others
    assert fates(crawled.crawl(refresh=True)) == others
    crawled.web.pages["/new.jpg"] = crawled.web.pages["/ada/b.jpg"]
    crawled.list([*crawled.paths, "/new.jpg"])
    assert fates(crawled.crawl()) == sorted([*others, "forgotten"])
    asked = {path for path, _ in crawled.web.asked}
    assert asked == {"/robots.txt", "/ill.jpg", "/new.jpg", *OTHERS}
    assert holding(store, needles) == set()
