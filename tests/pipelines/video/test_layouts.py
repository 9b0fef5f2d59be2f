"""The layouts are read back the way the trainers they are for read them."""

import csv
import json
import random
import shutil
from dataclasses import replace
from io import StringIO
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.errors import BadValue
from infra.storage import open_folder
from pipelines.video import consisid
from pipelines.video.exported import frames_of, read_clips
from pipelines.video.layouts import LayoutSettings, _table, write_layouts
from tests.pipelines.video.made_export import PEOPLE, make_export
from tests.stages.video.test_sam2 import tiny  # noqa: F401 - a fixture

PARTS = ("corresponding_data", "control_sam2_frame", "valid_frame")


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    export = make_export(tmp_path_factory.mktemp("run"))
    write_layouts(export, LayoutSettings())
    return export


@pytest.fixture(scope="module")
def clips(export):
    return {clip.id: clip for clip in read_clips(export)}


class ConsisID:
    """Reads what ConsisID's loader reads, in its order, by its rules (models/dataloader.py).

    Its least frames are 49; those of the clips here are fewer.
    """

    def __init__(self, folder, least_frames=49.0):
        self.videos = []
        for line in (folder / consisid.LIST_FILE).read_text().splitlines():
            videos, captions, annotations = line.strip().split(",")
            for record in json.loads((folder / captions).read_text()):
                if record.get("fps", 0) * record.get("duration", 0) >= least_frames:
                    path = folder / videos / Path(record["path"]).name
                    self.videos.append((path, record["cap"], folder / annotations))

    def sample(self, index, rng, *, cross_face):
        """Choose a person, the frames to make, reference frames outside them; read all of it."""
        path, text, annotations = self.videos[index]
        masks = annotations / "track_masks_data" / path.stem
        numbers, _, valid = (json.loads((masks / f"{name}.json").read_text()) for name in PARTS)
        boxes = json.loads((annotations / "refine_bbox_jsons" / f"{path.stem}.json").read_text())
        who = rng.choice([key for key, parts in numbers.items() if {"face", "head"} <= set(parts)])
        seen = sorted({*valid[who]["face"], *valid[who]["head"]})
        assert all(after - before <= 7 for before, after in pairwise(seen))
        window = seen[:25]
        pool = sorted(set(seen) - set(window)) if cross_face else window
        both = set(valid[who]["face"]) & set(valid[who]["head"]) & set(pool)
        candidates = [frame for frame in both if {"face", "head"} & set(boxes.get(str(frame), {}))]
        crops = []
        for frame in rng.sample(candidates, 3):
            (box,) = [b for b in boxes[str(frame)]["head"] if b["new_track_id"] == int(who)]
            crops.append((frame, [int(box["box"][side]) for side in ("x1", "y1", "x2", "y2")]))
        dense = [self.mask(masks, who, frame) for frame in window]
        return path, text, int(who), dict(zip(window, dense, strict=True)), crops

    @staticmethod
    def mask(masks, who, frame):
        file = masks / "tracking_mask_results" / who / f"annotated_frame_{frame:05d}.png"
        with Image.open(file) as image:
            return np.asarray(image) > 0


def test_consisids_loader_finds_video_text_masks_and_references(export, clips):
    assert ConsisID(export / "consisid").videos == []
    read = ConsisID(export / "consisid", least_frames=30.0)
    assert len(read.videos) == 3
    for index, cross_face in [(0, False), (1, True), (2, True)]:
        path, text, _, masks, crops = read.sample(index, random.Random(0), cross_face=cross_face)
        clip = clips[path.stem]
        assert path.resolve() == (export / clip.file).resolve()
        assert text == clip.caption
        assert all(mask.shape == (clip.height_px, clip.width_px) for mask in masks.values())
        for frame, (left, top, right, bottom) in crops:
            assert cross_face == (frame not in masks)
            shown = frames_of(export, clip, [frame])[0][top:bottom, left:right]
            assert min(shown.shape[:2]) > 80


def test_masks_lie_in_the_boxes_of_their_own_person(tmp_path):
    """ConsisID's step 4 numbers masks by part, its loader reads them by person."""
    export = make_export(tmp_path)
    clip = two_people(read_clips(export)[0])
    consisid._write_clip(clip, open_folder(str(export)), LayoutSettings())
    masks = export / "consisid/track_masks_data" / clip.id
    numbers, best, valid = (json.loads((masks / f"{name}.json").read_text()) for name in PARTS)
    boxes = json.loads((export / f"consisid/refine_bbox_jsons/{clip.id}.json").read_text())
    assert list(numbers) == ["1", "2"]
    for who in numbers:
        assert numbers[who] == {"face": int(who), "head": int(who)}
        assert best[who]["face"] in valid[who]["face"]
        for frame in valid[who]["face"]:
            (box,) = [b["box"] for b in boxes[str(frame)]["face"] if b["new_track_id"] == int(who)]
            rows, columns = np.nonzero(ConsisID.mask(masks, who, frame))
            assert box["x1"] < columns.mean() < box["x2"]
            assert box["y1"] < rows.mean() < box["y2"]


def two_people(clip):
    """Put a second face beside the first, for the second half of the clip."""
    first = clip.tracks[0]
    half = len(first.frames) // 2
    aside = [110, 0, 110, 0]
    second = replace(
        first, track_id=1, frames=first.frames[half:], scores=first.scores[half:],
        boxes_px=[(np.array(b) + aside).tolist() for b in first.boxes_px[half:]],
        landmarks_px=[(np.array(p) + [110, 0] * 5).tolist() for p in first.landmarks_px[half:]],
        best_frame=first.frames[-1], person=PEOPLE[1],
    )  # fmt: skip
    return replace(clip, tracks=[first, second])


def test_every_frame_has_a_mask_and_boxes_move_between_looks(export, clips):
    for clip in clips.values():
        folder = export / "consisid/track_masks_data" / clip.id
        files = sorted(folder.glob("tracking_mask_results/1/*.png"))
        assert [file.name for file in files] == [
            f"annotated_frame_{frame:05d}.png" for frame in range(clip.frames)
        ]
        boxes = json.loads((export / f"consisid/refine_bbox_jsons/{clip.id}.json").read_text())
        looks = [frame - clip.start_frame for frame in clip.main.frames]
        assert [int(frame) for frame in boxes] == list(range(looks[0], looks[-1] + 1))
        lefts = [boxes[str(frame)]["face"][0]["box"]["x1"] for frame in (looks[0], looks[1])]
        between = boxes[str(looks[0] + 1)]["face"][0]["box"]["x1"]
        assert between == pytest.approx(lefts[0] + (lefts[1] - lefts[0]) / 5, abs=0.02)
        items = chain.from_iterable(part for f in boxes.values() for part in f.values())
        assert all(0 <= item["confidence"] <= 1 for item in items)


@pytest.mark.parametrize("fps", [29.97002992, 23.976, 25.0, 30.0, 59.94])
def test_a_clip_of_49_frames_is_not_taken_for_a_shorter_one(clips, fps):
    clip = replace(next(iter(clips.values())), frames=49, fps=float(np.float32(fps)))
    record = consisid._record(clip)
    assert record["fps"] * record["duration"] >= 49.0
    assert record["duration"] == pytest.approx(49 / clip.fps)


def test_what_is_finished_is_left_alone_and_the_rest_made(export, tmp_path):
    export = shutil.copytree(export, tmp_path / "export")
    folders = sorted((export / "consisid/track_masks_data").iterdir())
    (folders[0] / "valid_frame.json").unlink()
    before = {folder: (folder / "corresponding_data.json").stat().st_mtime_ns for folder in folders}
    write_layouts(export, LayoutSettings(formats=("consisid",)))
    after = {folder: (folder / "corresponding_data.json").stat().st_mtime_ns for folder in folders}
    assert [before[f] != after[f] for f in folders] == [True, False, False]
    assert (folders[0] / "valid_frame.json").exists()


def test_of_a_clip_that_is_taken_out_nothing_stays(export, tmp_path):
    export = shutil.copytree(export, tmp_path / "export")
    gone, *_, stays = read_clips(export)
    rows = pq.read_table(export / "clips.parquet")
    open_folder(str(export)).write_table("clips.parquet", rows.slice(rows.num_rows - 1))
    write_layouts(export, LayoutSettings())
    left = [path.relative_to(export).as_posix() for path in export.rglob("*") if path.is_file()]
    assert [path for path in left if gone.id in path and path.startswith("consisid")] == []
    assert sum(stays.id in path for path in left if path.startswith("consisid")) > 3
    written = (export / "consisid" / consisid.CAPTIONS_FILE, export / "videos.csv")
    assert [gone.id in path.read_text() for path in written] == [False, False]


def test_a_clip_without_a_face_has_no_record(tmp_path, clips):
    found = list(clips.values())
    home = open_folder(str(tmp_path))
    consisid.write_consisid(home, [replace(found[0], tracks=[])], LayoutSettings(), 0)
    assert json.loads((tmp_path / "consisid" / consisid.CAPTIONS_FILE).read_text()) == []


def test_cogvideox_reads_the_table(export, clips):
    table = pd.read_csv(export / "videos.csv")
    prompts, paths = table["text"].tolist(), table["path"].tolist()
    assert [export.joinpath(path.strip()).is_file() for path in paths] == [True] * 3
    assert ["" + prompt for prompt in prompts] == [clip.caption for clip in clips.values()]
    assert table["person"].tolist() == [clip.person for clip in clips.values()]


def test_a_clip_without_a_caption_still_gives_text(clips):
    awkward = 'says "no", then\nnothing'
    one, two, _ = clips.values()
    table = _table([replace(one, caption=""), replace(two, caption=awkward)])
    prompts = pd.read_csv(StringIO(table))["text"].tolist()
    assert ["person: " + prompt for prompt in prompts] == ["person:  ", "person: " + awkward]


def test_animatediff_reads_the_same_table(export, clips):
    with (export / "videos.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row, clip in zip(rows, clips.values(), strict=True):
        videoid, name, _ = row["videoid"], row["name"], row["page_dir"]
        assert (export / "clips" / f"{videoid}.mp4").is_file()
        assert name == clip.caption


def test_masks_from_look_to_look_are_those_of_the_whole_clip(export, clips):
    clip = next(iter(clips.values()))
    masker = consisid._masker(LayoutSettings(), clip.detector)
    track = replace(clip.main, frames=[f + 3 for f in clip.main.frames[:-1]])
    track = replace(track, boxes_px=track.boxes_px[:-1], landmarks_px=track.landmarks_px[:-1])
    whole = list(consisid._masks(clip, track, masker, frames_of(export, clip)))
    parts = list(consisid._masks(clip, track, masker, []))
    assert np.array_equal(np.stack(whole), np.stack(parts))
    assert [mask.any() for mask in parts[:4]] == [False, False, False, True]


@pytest.mark.slow
def test_sam_2_can_take_the_ellipses_place(tiny, tmp_path):  # noqa: F811
    export = make_export(tmp_path)
    clip = read_clips(export)[0]
    settings = LayoutSettings(masks="sam2", sam2=f"file:{tiny}")
    consisid._write_clip(clip, open_folder(str(export)), settings)
    masks = export / "consisid/track_masks_data" / clip.id
    _, best, valid = (json.loads((masks / f"{name}.json").read_text()) for name in PARTS)
    looks = [frame - clip.start_frame for frame in clip.main.frames]
    for frame in range(clip.frames):
        shown = looks[0] <= frame <= looks[-1] and ConsisID.mask(masks, "1", frame).any()
        assert shown == (frame in valid["1"]["face"])
    assert best["1"]["face"] in valid["1"]["face"]


def test_sam_2_needs_the_name_of_its_weights():
    with pytest.raises(BadValue, match="name a folder with a Sam2VideoModel"):
        LayoutSettings(masks="sam2")
