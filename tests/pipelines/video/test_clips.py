"""From rows of videos to rows of clips, and what of these are copies."""

import pyarrow as pa
import pytest

from infra.storage import open_folder
from pipelines.dedupe import read
from pipelines.video.clips import CLIP_ROWS, fan_out, shots_of
from pipelines.video.dedupe import dedupe
from stages.columns import SEED, schema
from stages.models.faces import ModelCard
from stages.video.clips import clip_id

CARDS = [ModelCard(name, "ab" * 32, "CC0", "") for name in ("finder", "teller")]
WATCHED = schema([*SEED, "video", "shots", "clips"])


def clip(video, start, sha="c" * 64, tracks=1):
    name = clip_id(video, start, start + 60)
    return {
        "clip_id": name, "start_frame": start, "end_frame": start + 60, "file": f"{name}.mp4",
        "sha256": sha, "tracks": [{"track_id": n, "frames": [start]} for n in range(tracks)],
    }  # fmt: skip


def video(name, clips=None, **changes):
    blank = {field.name: "" if pa.types.is_string(field.type) else None for field in WATCHED}
    facts = {"frames": 200, "duration_s": 8.0, "width_px": 64} if clips is not None else None
    shots = [{"start_frame": 0, "end_frame": 200}] if clips is not None else None
    return blank | {"id": name, "clips": clips, "video": facts, "shots": shots} | changes


@pytest.fixture
def watched(tmp_path):
    rows = [
        video("a", [clip("a", 0), clip("a", 80, tracks=2)], caption="two", license="CC0"),
        video("b", []),
        video("c", error="broken_video", error_detail="after 3 frames"),
        video("d", rejected_by="duplicate_url", dup_of="a", dup_kind="url"),
    ]
    home = open_folder(str(tmp_path / "watched"))
    for number in (0, 2):
        part = pa.Table.from_pylist(rows[number : number + 2], schema=WATCHED)
        home.write_table(f"part-{number}.parquet", part)
    return home


def fanned(watched, tmp_path):
    target = open_folder(str(tmp_path / "clips"))
    fan_out(watched, target, CARDS)
    return target


def test_every_video_has_a_row_per_clip_or_one_that_says_why_not(watched, tmp_path):
    target = fanned(watched, tmp_path)
    table = pa.parquet.read_table(target.files()[0])
    assert table.schema.equals(CLIP_ROWS)
    rows = {row["id"]: row for row in table.to_pylist()}
    first, second = clip_id("a", 0, 60), clip_id("a", 80, 140)
    assert {name: row["video_id"] for name, row in rows.items()} == {
        first: "a", second: "a", "b": "b", "c": "c", "d": "d",
    }  # fmt: skip
    fates = {name: (r["status"], r["rejected_by"], r["error"]) for name, r in rows.items()}
    assert fates == {
        first: ("keep", "", ""), second: ("keep", "", ""), "b": ("reject", "no_clip", ""),
        "c": ("error", "", "broken_video"), "d": ("reject", "duplicate_url", ""),
    }  # fmt: skip
    assert rows[second] | {"caption": "two", "license": "CC0", "num_faces": 2} == rows[second]
    assert rows[first]["embedder"] == "teller@abababababab"
    assert (rows["c"]["tracks"], rows["c"]["error_detail"]) == (None, "after 3 frames")


def test_a_second_try_begins_anew(watched, tmp_path):
    target = fanned(watched, tmp_path)
    before = [open_folder(str(tmp_path / "clips")).read("part-00000.parquet")]
    target.write("part-00007.parquet", b"what a killed try left")
    fanned(watched, tmp_path)
    assert [target.read("part-00000.parquet")] == before
    assert len(target.files()) == 1


def test_shots_are_told_of_every_video_that_was_watched_to_its_end(watched):
    rows = shots_of(watched).to_pylist()
    assert [row["video_id"] for row in rows] == ["a", "b"]
    assert (rows[0]["duration_s"], rows[0]["shots"][0]["end_frame"]) == (8.0, 200)


def test_of_clips_with_the_same_bytes_the_first_by_id_stays(tmp_path):
    rows = [
        video(name, [clip(name, 0, sha=sha * 64)]) for name, sha in zip("abc", "112", strict=True)
    ]
    home = open_folder(str(tmp_path / "watched"))
    home.write_table("part.parquet", pa.Table.from_pylist(rows, schema=WATCHED))
    target = open_folder(str(tmp_path / "decided"))
    dedupe(fanned(home, tmp_path), target)
    decided = read(target, ["id", "status", "rejected_by", "dup_of", "dup_kind"]).to_pylist()
    twins = sorted(clip_id(name, 0, 60) for name in "ab")
    fates = {row["id"]: (row["rejected_by"], row["dup_of"], row["dup_kind"]) for row in decided}
    assert fates == {
        twins[0]: ("", "", ""), twins[1]: ("exact_duplicate", twins[0], "exact"),
        clip_id("c", 0, 60): ("", "", ""),
    }  # fmt: skip
    assert [row["id"] for row in decided] == sorted(fates)
