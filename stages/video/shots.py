"""Cut a video into shots while it is decoded."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from scenedetect import FrameTimecode  # type: ignore[import-untyped]
from scenedetect.detectors import AdaptiveDetector  # type: ignore[import-untyped]

from stages.types import RGB
from stages.video.decode import Video
from stages.video.frames import Frame
from stages.video.settings import VideoSettings

SMALL_PX = 256
"""Long side at which pictures are compared with one another."""
_WINDOW = 2
_ANY_RATE = Fraction(30)


@dataclass(frozen=True, slots=True)
class Shot:
    """What one camera saw without a break; ``end`` is the first frame that is no longer in it."""

    start_frame: int
    end_frame: int
    start_s: float
    end_s: float


class Kept(NamedTuple):
    """A frame that belongs into a clip, and the same at ``SMALL_PX``."""

    frame: Frame
    small: RGB


class CutFinder:
    """Find hard cuts: frames that change far more than the frames around them do.

    PySceneDetect's adaptive detector, with the picture at 256 px. A ratio to the neighbours holds
    through pans and moving people, where a fixed threshold would cut. Fades, dissolves and wipes
    are not found: their change is spread over frames.

    Args:
        settings: The detector's ratio and floor, and how near two cuts may be.

    References:
        https://www.scenedetect.com/docs/latest/api/detectors.html (AdaptiveDetector).
    """

    lookahead = _WINDOW
    """A cut is known so many frames after its own."""

    def __init__(self, settings: VideoSettings) -> None:
        self._detector = AdaptiveDetector(
            adaptive_threshold=settings.cut_ratio,
            min_scene_len=settings.min_shot_frames,
            window_width=_WINDOW,
            min_content_val=settings.cut_change,
        )

    def push(self, index: int, small: RGB) -> int | None:
        """Take the next frame; return the first frame of a new shot once one is known."""
        # The rate does not matter, as all lengths are given in frames.
        code = FrameTimecode(index, fps=_ANY_RATE)
        cuts = self._detector.process_frame(code, np.ascontiguousarray(small[:, :, ::-1]))
        return int(cuts[0].frame_num) if cuts else None


def cut(video: Video, settings: VideoSettings) -> Iterator[Kept | Shot]:
    """Yield the frames that belong into clips, and behind the last one of each shot the shot.

    Frames next to a cut are left out: ``trim_frames`` on both sides. The beginning and the end of
    the video are no cuts. Held back at any time are the frames of which it is not known whether a
    cut follows: ``trim_frames`` and two.

    Raises:
        BadVideo: While decoding, see ``Video``.
    """
    finder, trim = CutFinder(settings), settings.trim_frames
    pending: deque[Kept] = deque()
    start_frame, start_s, first_kept = 0, 0.0, 0
    for frame in video:
        kept = Kept(frame, frame.rgb(SMALL_PX))
        pending.append(kept)
        begins = finder.push(frame.index, kept.small)
        if begins is not None:
            while pending[0].frame.index < begins:
                done = pending.popleft()
                if first_kept <= done.frame.index < begins - trim:
                    yield done
            end_s = pending[0].frame.time_s
            yield Shot(start_frame, begins, start_s, end_s)
            start_frame, start_s, first_kept = begins, end_s, begins + trim
        while pending and pending[0].frame.index <= frame.index - finder.lookahead - trim:
            done = pending.popleft()
            if done.frame.index >= first_kept:
                yield done
    yield from (done for done in pending if done.frame.index >= first_kept)
    yield Shot(start_frame, video.facts.frames, start_s, video.facts.duration_s)
