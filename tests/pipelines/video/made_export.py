"""A tiny true export of videos: real clips, with real tracks, of two people who take turns."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from infra.storage import open_folder
from pipelines.video.exported import CLIPS, MEASURES, PAIRS, SHOTS
from stages.models.dlib_faces import DlibDetector, DlibEmbedder
from stages.video.settings import VideoSettings
from stages.video.watch import Watch
from tests.stages.video import made

LENGTHS = (40, 36, 44)
PEOPLE = ("a" * 32, "b" * 32)
VIDEO = "5" * 32


def make_export(folder: Path) -> Path:
    """Write ``folder/export`` as a run does, and return it.

    One video of 320 x 320 pixels and 25 frames a second in three shots: the first person, the
    second, the first again. So three clips, with a pair of each kind.
    """
    export = folder / "export"
    (export / "clips").mkdir(parents=True)
    video, clips, files = _watched()
    for name, data in files.items():
        (export / "clips" / name).write_bytes(data)
    home = open_folder(str(export))
    rows = sorted((_row(number, clip) for number, clip in enumerate(clips)), key=lambda r: r["id"])
    home.write_table("clips.parquet", pa.Table.from_pylist(rows, schema=CLIPS))
    first, _, third = (_row(number, clip) for number, clip in enumerate(clips))
    pairs = [
        _pair(first, 0, first["frames"], third, third["tracks"][0]["frames"][2], "clip"),
        _pair(third, 12, third["frames"], third, third["tracks"][0]["frames"][1], "moment"),
    ]
    home.write_table("pairs.parquet", pa.Table.from_pylist(pairs, schema=PAIRS))
    facts = {name: video[name] for name in SHOTS.names if name in video}
    shots = [facts | {"video_id": VIDEO, "shots": video["shots"]}]
    home.write_table("shots.parquet", pa.Table.from_pylist(shots, schema=SHOTS))
    return export


@cache
def _watched():
    """Watch the video once for all tests of a process."""
    with TemporaryDirectory() as held:
        path = made.write(Path(held, "a.mp4"), made.shots(LENGTHS, size=(320, 320)))
        stage = Watch(Path(held, "clips"), VideoSettings(), lambda: DlibDetector(640), DlibEmbedder)
        row = {"id": VIDEO, "file": str(path), "blob": None, "source": "", "member": ""}
        row |= {"offset": 0, "length": None}
        out = {name: column[0] for name, column in stage({k: [v] for k, v in row.items()}).items()}
        files = {f.name: f.read_bytes() for f in Path(held, "clips").iterdir()}
    return out["video"] | {"shots": out["shots"]}, out["clips"], files


def _row(number, clip):
    person = PEOPLE[number % 2]
    words = ("url", "label", "caption_attributes", "caption_action")
    tracks = [track | {"person": person} for track in clip["tracks"]]
    return {name: clip[name] for name, _ in MEASURES} | dict.fromkeys(words, "") | {
        "id": clip["clip_id"], "video_id": VIDEO, "file": f"clips/{clip['file']}",
        "source": "films", "member": "a.mp4", "license": "CC0",
        "caption": f"a person looks into the camera, {number}",
        "detector": DlibDetector(640).card.tag, "embedder": DlibEmbedder().card.tag,
        "person": person, "main_track": 0, "tracks": tracks,
    }  # fmt: skip


def _pair(target, start, end, reference, frame, kind):
    track = reference["tracks"][0]
    return {
        "target_clip": target["id"], "target_start_frame": start, "target_end_frame": end,
        "reference_clip": reference["id"], "reference_frame": frame - reference["start_frame"],
        "reference_box_px": track["boxes_px"][track["frames"].index(frame)], "kind": kind,
    }  # fmt: skip
