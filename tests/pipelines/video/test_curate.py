"""A whole run over films of two people, and over what is none."""

import json
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from infra.configuration import from_yaml
from pipelines.cli import main
from pipelines.video.exported import frames_of, read_clips, read_pairs
from pipelines.video.recipes import VideoRecipe
from tests.pipelines.video import films
from tests.pipelines.video.films import HE, SHE
from tests.stages.video import made

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]
JOBS = ("seed", "watch", "clips", "keep", "dedupe", "people", "pairs", "export")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("films")
    films.film(home / "first.mp4", (SHE, HE, SHE))
    films.film(home / "second.mkv", (HE,))
    (home / "second.txt").write_text("a man speaks")
    (home / "copy.mkv").write_bytes((home / "second.mkv").read_bytes())
    made.write(home / "wall.mp4", made.half(60, films.SIDE))
    made.write(home / "short.mp4", made.half(10, films.SIDE))
    made.only_sound(home / "sound.mp4")
    (home / "page.mp4").write_text("<html>not found</html>")
    (home / "none.mp4").write_bytes(b"")
    (home / "notes.md").write_text("no video, and not named like one")
    return home


@pytest.fixture(scope="module")
def done(folder, local_ray, tmp_path_factory):  # noqa: ARG001 - Ray only has to be there
    store = tmp_path_factory.mktemp("store")
    return films.run(films.recipe(folder), store), store


def decisions(result):
    return pads.dataset(f"{result.path}/decisions").to_table().to_pylist()


def export_of(result):
    return Path(result.path, "export")


def test_every_video_is_accounted_for_by_its_clips_or_by_a_reason(done):
    (result, said), _ = done
    fates = {}
    for row in decisions(result):
        fates.setdefault(row["member"], []).append(row["error"] or row["rejected_by"])
    twins = sorted([fates.pop("second.mkv"), fates.pop("copy.mkv")])
    assert twins == [[""], ["exact_duplicate"]]
    assert fates == {
        "first.mp4": ["", "", ""],
        "wall.mp4": ["frozen_clip"],
        "short.mp4": ["no_clip"],
        "sound.mp4": ["no_video_stream"],
        "page.mp4": ["not_a_video"],
        "none.mp4": ["empty"],
    }
    assert result.rows == 10 == result.keep + sum(result.reject.values()) + len(result.error)
    assert "100.0 %" in said


def test_the_numbers_of_the_run_are_true(done):
    (result, _), _ = done
    videos = result.videos
    assert (videos["rows"], videos["with_clips"], videos["errors"]) == (8, 4, 3)
    assert videos["length_s"] == pytest.approx((180 + 60 + 60 + 60 + 10) / 25)
    assert result.clips == {"rows": 6, "keep": 4, "keep_share": 0.6667}
    assert result.tracks == {"rows": 5, "keep": 4}
    record = json.loads(Path(result.path, "run.json").read_text())
    assert [job["job"] for job in record["jobs"]] == [*JOBS]
    assert record["jobs"][-1]["rows"] == result.keep == len(read_clips(export_of(result)))
    assert record["videos"] == videos


def test_identities_join_tracks_across_clips_and_videos(done):
    (result, _), _ = done
    people = {}
    for clip in read_clips(export_of(result)):
        place = "first.mp4" if clip.member == "first.mp4" else "second"
        people[place, clip.start_frame] = clip.person
    she, he = people["first.mp4", 0], people["first.mp4", 62]
    assert people == {
        ("first.mp4", 0): she, ("first.mp4", 62): he, ("first.mp4", 122): she, ("second", 0): he,
    }  # fmt: skip
    assert she != he
    assert all(people.values())


def test_what_is_exported_is_true_of_its_files(done):
    (result, _), _ = done
    export = export_of(result)
    for clip in read_clips(export):
        assert (export / clip.file).stat().st_size == clip.bytes_len
        assert len(frames_of(export, clip, [0, clip.frames - 1])) == 2
        assert (clip.license, clip.main.person) == ("CC0", clip.person)
        assert clip.caption == ("a man speaks" if clip.member == "second.mkv" else "")
        assert clip.detector.startswith("dlib")
        assert clip.embedder.startswith("dlib")
    shots = pq.read_table(export / "shots.parquet").to_pylist()
    first = next(row for row in shots if len(row["shots"]) == 3)
    assert [shot["start_frame"] for shot in first["shots"]] == [0, 60, 120]
    assert len(shots) == 5


def test_a_clips_pairs_show_its_person_elsewhere(done):
    (result, _), _ = done
    clips = {clip.id: clip for clip in read_clips(export_of(result))}
    pairs = read_pairs(export_of(result))
    ways = {(pair.target_clip, pair.reference_clip) for pair in pairs if pair.kind == "clip"}
    alike = [(a, b) for a, b in combinations(clips, 2) if clips[a].person == clips[b].person]
    assert ways == {*alike, *((b, a) for a, b in alike)}
    assert result.pairs == len(pairs) > len(ways)
    for pair in (pair for pair in pairs if pair.kind == "moment"):
        assert pair.target_clip == pair.reference_clip
        start, end = pair.target_start_frame, pair.target_end_frame
        assert end - start == 49
        assert not start <= pair.reference_frame < end


def test_the_run_is_in_mlflow_with_its_numbers(done):
    from mlflow.tracking import MlflowClient

    (result, _), store = done
    found = MlflowClient(tracking_uri=f"sqlite:///{store}/mlflow.db").get_run(result.mlflow).data
    assert found.metrics["videos.rows"] == 8
    assert found.metrics["clips.keep"] == result.keep
    assert found.metrics["people.identities"] == 2
    assert found.metrics["videos.speed"] > 0
    assert found.params["keep.min_frames"] == "49"


def test_the_same_command_again_does_nothing(done, folder):
    (result, _), store = done
    again, said = films.run(films.recipe(folder), store)
    assert again == result
    assert "nothing is left to do" in said


def test_the_recipe_beside_the_result_is_a_recipe_of_videos(done, folder, capsys):
    (result, _), store = done
    path = Path(result.path, "recipe.yaml")
    assert from_yaml(path, VideoRecipe(name="x")) == films.recipe(folder)
    assert main(["curate", str(path), "--store", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["run"] == result.run


def test_moving_a_threshold_watches_nothing_again(done, folder):
    (result, _), store = done
    rules = {"max_frozen_share": 1.0, "min_motion": 0.0}
    moved, _ = films.run(films.recipe(folder, keep=rules), store)
    assert moved.run != result.run
    record = json.loads(Path(moved.path, "run.json").read_text())
    reused = {job["job"]: job["reused"] for job in record["jobs"]}
    assert reused == dict.fromkeys(JOBS, False) | {"seed": True, "watch": True, "clips": True}
    assert moved.reject["no_face"] == 1
    clip = read_clips(export_of(moved))[0]
    ours = export_of(moved) / clip.file
    assert ours.stat().st_nlink == 3, "a name in each run, and where it was watched"


@pytest.mark.long
def test_other_workers_decide_the_same_byte_for_byte(done, folder, tmp_path):
    (result, _), _ = done
    other = films.recipe(folder, workers={"lookers": 2, "batch_rows": 3, "block_rows": 4})
    again, _ = films.run(other, tmp_path)
    assert again.run == result.run, "how many hands there are is not part of what is done"
    for name in ("decisions/part-00000.parquet", "export/clips.parquet", "export/pairs.parquet"):
        assert Path(again.path, name).read_bytes() == Path(result.path, name).read_bytes()


def test_captions_are_written_of_kept_clips_before_they_are_exported(done, folder):
    (result, _), store = done
    told, _ = films.run(films.recipe(folder, captions={"backend": "template"}), store)
    record = json.loads(Path(told.path, "run.json").read_text())
    assert [job["job"] for job in record["jobs"]] == [
        "seed", "watch", "clips", "keep", "dedupe", "caption", "captioned", "people", "pairs",
        "export",
    ]  # fmt: skip
    assert told.keep == result.keep == record["captions"]["captions"]
    for clip in read_clips(export_of(told)):
        assert "person" in clip.caption
        assert all((clip.caption_attributes, clip.caption_action))


@pytest.mark.long
def test_where_nothing_is_a_video_the_run_ends_all_the_same(tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films/page.mp4").write_text("<html>not found</html>")
    result, said = films.run(films.recipe(tmp_path / "films"), tmp_path / "store")
    assert (result.rows, result.keep, result.error) == (1, 0, {"not_a_video": 1})
    assert (read_clips(export_of(result)), read_pairs(export_of(result))) == ([], [])
    assert "not_a_video" in said
    assert Path(result.report).exists()


@pytest.mark.long
def test_an_empty_table_is_a_run_without_rows(tmp_path):
    pq.write_table(pa.table({"url": pa.array([], pa.string())}), tmp_path / "none.parquet")
    recipe = films.recipe(tmp_path / "none.parquet", fetch={"allow_loopback": True})
    result, _ = films.run(recipe, tmp_path / "store")
    assert (result.rows, result.keep, result.videos["rows"]) == (0, 0, 0)
    assert read_clips(export_of(result)) == []
