"""The quickstart's film: zooms and pans over the sample photographs, and who is seen when."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate, combinations
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from infra.storage import Folder
from pipelines.quickstart.pages import PERSON, pages
from pipelines.video.exported import SHOTS_FILE, read_clips
from stages.types import RGB

FILM = "film.mp4"
WIDTH_PX, HEIGHT_PX, FPS = 480, 360, 25
_SCENES = (
    ("/portrait.jpg", 56), ("/shirt.jpg", 56), ("/rocket.jpg", 30), ("/head.jpg", 56),
)  # fmt: skip
"""Photographs in their order, and for how many frames each is seen: nobody is on the rocket's."""
_ZOOM, _GROWTH = 1.06, 0.0022
"""How much larger than it must be the first picture of a scene is, and by how much each grows."""
_PAN_PX = 0.35


@dataclass(frozen=True, slots=True)
class Scene:
    """What is known of one shot."""

    person: str
    """As ``pages.PERSON`` names them; empty: nobody."""
    start_frame: int
    end_frame: int
    """The first frame that is no longer in it."""


def scenes() -> tuple[Scene, ...]:
    """Return the shots of the film in their order."""
    ends = list(accumulate(frames for _, frames in _SCENES))
    return tuple(
        Scene(PERSON.get(path, ""), end - frames, end)
        for (path, frames), end in zip(_SCENES, ends, strict=True)
    )


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a curation found in the film, beside what is known of it."""

    shots: int
    shots_right: int
    """Shots found at their very frames."""
    clips: int
    """Of people; each shot of a person should give one."""
    clips_right: int
    """Clips kept with one track, of one face."""
    pairs: int
    """Pairs of such clips."""
    pairs_right: int
    """Told right: one person or two."""

    @property
    def sentence(self) -> str:
        """What a terminal is told."""
        return (
            f"{self.shots_right} of {self.shots} shots, {self.clips_right} of {self.clips} tracks "
            f"and {self.pairs_right} of {self.pairs} pairs of people are as they were made"
        )


def compare(export: Folder) -> Compared:
    """Hold the export of a curation of the film, and nothing else, against the truth.

    Raises:
        UnreadableSource: There is no finished export of videos.
    """
    known = scenes()
    table = pq.read_table(f"{export.path}/{SHOTS_FILE}", filesystem=export.fs)
    found = {(s["start_frame"], s["end_frame"]) for row in table["shots"].to_pylist() for s in row}
    people, kept = [scene for scene in known if scene.person], read_clips(export)
    clips = [
        (scene.person, clip)
        for scene in people
        for clip in kept
        if scene.start_frame <= clip.start_frame and clip.end_frame <= scene.end_frame
    ]
    pairs = list(combinations(people, 2))
    return Compared(
        shots=len(known),
        shots_right=sum((scene.start_frame, scene.end_frame) in found for scene in known),
        clips=len(people),
        clips_right=sum(len(clip.tracks) == 1 for _, clip in clips),
        pairs=len(pairs),
        pairs_right=sum(
            bool(one.person)
            and bool(other.person)
            and (who == whom) == (one.person == other.person)
            for (who, one), (whom, other) in combinations(clips, 2)
        ),
    )


def write_video(path: Path) -> None:
    """Write the film as MP4 (H.264); a file that holds it already is not touched.

    A curation knows its source by the time of its last change: the same file is curated once.
    """
    made = path.with_name(f".{path.name}.{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _encode(made)
        if not path.exists() or path.read_bytes() != made.read_bytes():
            made.replace(path)
    finally:
        made.unlink(missing_ok=True)


def frames() -> Iterator[RGB]:
    """Draw every frame of the film."""
    photographs = {page.path: page.body for page in pages()}
    for number, (path, count) in enumerate(_SCENES):
        with Image.open(BytesIO(photographs[path])) as photograph:
            picture = np.asarray(photograph.convert("RGB"))
        yield from _scene(picture, count, direction=1 if number % 2 else -1)


def _scene(picture: RGB, count: int, direction: int) -> Iterator[RGB]:
    """Zoom slowly into a photograph and pan over it, as a camera that is never quite still."""
    high, wide = picture.shape[:2]
    fit = max(WIDTH_PX / wide, HEIGHT_PX / high)
    for i in range(count):
        scale = fit * (_ZOOM + _GROWTH * i)
        left = (wide * scale - WIDTH_PX) / 2 + direction * _PAN_PX * (i - count / 2)
        top = (high * scale - HEIGHT_PX) / 2
        move = np.array([[scale, 0, -left], [0, scale, -top]], dtype=np.float32)
        shown = cv2.warpAffine(
            picture, move, (WIDTH_PX, HEIGHT_PX),
            flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
        yield np.asarray(shown, dtype=np.uint8)


def _encode(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        # With x264's macroblock tree or more threads the same frames give other bytes.
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"crf": "18", "preset": "veryfast", "mbtree": "0"}
        for frame in frames():
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
