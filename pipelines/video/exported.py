"""What a finished curation of videos exports, and how it is read.

``export/clips.parquet`` has one row per kept clip, by id; ``pairs.parquet`` says which moment shows
the face of which target; ``shots.parquet`` has one row per video that could be watched to its end;
``clips/<id>.mp4`` are the clips themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import BadValue, UnreadableSource
from infra.storage import Folder, open_folder
from stages.types import RGB
from stages.video import rows
from stages.video.decode import BadVideo, Video
from stages.video.settings import VideoSettings

CLIPS_FILE, PAIRS_FILE, SHOTS_FILE = "clips.parquet", "pairs.parquet", "shots.parquet"
CLIPS_FOLDER = "clips"

TRACK = pa.struct([*rows.TRACK, pa.field("person", pa.string())])
"""A face track, and the identity of its face; empty for a face of nobody."""

_I32, _I64, _F32, _F64, _TEXT = pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string()
MEASURES = [
    ("file", _TEXT),  # below the export's folder
    ("sha256", _TEXT),
    ("bytes_len", _I64),
    ("width_px", _I32),
    ("height_px", _I32),
    ("fps", _F32),
    ("frames", _I32),
    # Of the source video; ``end`` is the first frame, and its time, that is no longer in it.
    ("start_frame", _I32),
    ("end_frame", _I32),
    ("start_s", _F64),
    ("end_s", _F64),
    # Diagonals of the picture per second.
    ("motion", _F32),
    ("camera_motion", _F32),
    ("person_motion", _F32),  # null: no face
    ("sharpness_p10", _F32),
    ("black_share", _F32),
    ("frozen_share", _F32),
    ("letterbox_px", pa.list_(_I32)),  # left, top, right, bottom
    ("text_share", _F32),  # null: nobody looked for writing
]
"""What is measured of a clip; see ``stages/video/rows.py``."""
SOURCES = [(name, _TEXT) for name in ("url", "source", "member", "label", "license")]
"""Where a clip's video is from."""
WORDS = [(name, _TEXT) for name in ("caption", "caption_attributes", "caption_action")]
"""What is said of a clip; empty where nothing is."""

CLIPS = pa.schema(
    [
        ("id", _TEXT),
        ("video_id", _TEXT),
        *MEASURES,
        *SOURCES,
        *WORDS,
        ("detector", _TEXT),  # name@first 12 digits of its sha256
        ("embedder", _TEXT),
        ("person", _TEXT),
        ("main_track", _I32),
        ("tracks", pa.list_(TRACK)),
    ]
)
PAIRS = pa.schema(
    [
        ("target_clip", _TEXT),
        # Frames of the clips, not of the videos.
        ("target_start_frame", _I32),
        ("target_end_frame", _I32),
        ("reference_clip", _TEXT),
        ("reference_frame", _I32),
        ("reference_box_px", pa.list_(_F32)),
        ("kind", _TEXT),
    ]
)
SHOTS = pa.schema(
    [
        ("video_id", _TEXT),
        ("width_px", _I32),
        ("height_px", _I32),
        ("fps", _F32),
        ("frames", _I32),
        ("duration_s", _F64),
        ("codec", _TEXT),
        ("shots", rows.SHOTS),
    ]
)

_ANY = VideoSettings(max_minutes=1e6, max_megapixels=1e6)
"""Clips have been looked at already: nothing of them is refused for its size."""


@dataclass(frozen=True, slots=True)
class Track:
    """One face through a clip: an entry of every list per look at which it was found."""

    track_id: int
    start_frame: int
    end_frame: int
    frames: list[int]
    """Of the source video; less the clip's ``start_frame`` they are frames of the clip."""
    boxes_px: list[list[float]]
    """Left, top, right, bottom."""
    scores: list[float]
    landmarks_px: list[list[float]]
    """x, y of five points."""
    yaws_deg: list[float]
    pitches_deg: list[float]
    rolls_deg: list[float]
    sharpness: list[float]
    embedding: list[float]
    template_count: int
    best_frame: int
    person: str
    """Identity; empty for a face of nobody."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One kept clip, as ``CLIPS`` says."""

    id: str
    video_id: str
    file: str
    sha256: str
    bytes_len: int
    width_px: int
    height_px: int
    fps: float
    frames: int
    start_frame: int
    end_frame: int
    start_s: float
    end_s: float
    motion: float
    camera_motion: float
    person_motion: float | None
    sharpness_p10: float
    black_share: float
    frozen_share: float
    letterbox_px: list[int]
    text_share: float | None
    url: str
    source: str
    member: str
    label: str
    license: str
    caption: str
    caption_attributes: str
    caption_action: str
    detector: str
    embedder: str
    person: str
    main_track: int
    """The ``track_id`` of the main person."""
    tracks: list[Track]

    @property
    def main(self) -> Track:
        """The track of the main person."""
        return next(track for track in self.tracks if track.track_id == self.main_track)


@dataclass(frozen=True, slots=True)
class Pair:
    """A stretch of a clip to be made, and a face of its person from elsewhere."""

    target_clip: str
    target_start_frame: int
    target_end_frame: int
    """The first frame that is no longer in it."""
    reference_clip: str
    reference_frame: int
    reference_box_px: list[float]
    kind: Literal["clip", "moment"]
    """Another clip of the person, or another moment of the same clip, outside the stretch."""


def read_clips(export: Folder | Path) -> list[Clip]:
    """Read the kept clips, by id.

    Raises:
        UnreadableSource: There is no finished export of videos, or it is damaged.
    """
    return clips_of(_read(export, CLIPS_FILE))


def clips_of(table: pa.Table) -> list[Clip]:
    """Return rows of ``CLIPS`` as clips."""
    return [
        Clip(**row | {"tracks": [Track(**track) for track in row["tracks"]]})
        for row in table.to_pylist()
    ]


def read_pairs(export: Folder | Path) -> list[Pair]:
    """Read the pairs, by target and reference.

    Raises:
        UnreadableSource: There is no finished export of videos, or it is damaged.
    """
    return [Pair(**row) for row in _read(export, PAIRS_FILE).to_pylist()]


def frames_of(export: Folder | Path, clip: Clip, frames: Sequence[int] | None = None) -> list[RGB]:
    """Decode some frames of a clip, upright, in the order in which they are asked for.

    Args:
        export: The export's folder.
        clip: Which clip.
        frames: Numbers of its frames, from 0; None: all of them, which are then all in memory.

    Raises:
        BadValue: The clip has no such frame.
        UnreadableSource: The clip's file is gone or damaged.
    """
    wanted = range(clip.frames) if frames is None else frames
    if outside := [frame for frame in wanted if not 0 <= frame < clip.frames]:
        raise BadValue(
            "frames", outside[0], f"the clip {clip.id} has frames 0 to {clip.frames - 1}."
        )
    return decoded(_folder(export), clip.file, wanted)


def decoded(home: Folder, name: str, frames: Sequence[int]) -> list[RGB]:
    """Decode some frames of a clip's file, see ``frames_of``.

    Raises:
        UnreadableSource: The file is gone or damaged, or has no such frame.
    """
    found: dict[int, RGB] = {}
    needed, last = set(frames), max(frames, default=-1)
    try:
        with (
            home.fs.open_input_file(f"{home.path}/{name}") as file,
            Video(file, _ANY) as video,
        ):
            for frame in video if needed else ():
                if frame.index in needed:
                    found[frame.index] = frame.rgb()
                if frame.index == last:
                    break
        return [found[frame] for frame in frames]
    except (BadVideo, OSError, KeyError) as problem:
        cure = "Curate again: the same command writes the export anew once it is deleted."
        raise UnreadableSource(f"{home}/{name}", str(problem), cure) from None


def _read(export: Folder | Path, name: str) -> pa.Table:
    home = _folder(export)
    if not home.exists(name):
        cure = "Name the export folder of a finished run of `visage curate faceid_video`."
        raise UnreadableSource(str(home), f"no {name} is there", cure)
    try:
        return pq.read_table(f"{home.path}/{name}", filesystem=home.fs)
    except pa.ArrowInvalid as problem:
        cure = "Curate again: the same command writes the export anew once it is deleted."
        raise UnreadableSource(f"{home}/{name}", str(problem), cure) from None


def _folder(export: Folder | Path) -> Folder:
    return open_folder(str(export)) if isinstance(export, Path) else export
