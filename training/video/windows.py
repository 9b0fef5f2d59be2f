"""Which frames of a clip are learnt, and what is wrong with a clip that gives none."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

from infra.errors import BadValue

Reason = Literal["too_short", "too_few_fps", "no_track", "no_mask", "several_people"]
LEFT: Mapping[Reason, str] = {
    "too_short": "shorter than a window",
    "too_few_fps": "of fewer frames per second than a window",
    "no_track": "with nobody followed through the window",
    "no_mask": "without a mask of the face in the window",
    "several_people": "of several people where one is expected",
}
"""Why a clip, or a window of it, is not learnt; in the order in which it is asked."""
_SLOWER = 0.98
"""Share of the frame rate at which a clip still counts as being of that rate: 23.976 is 24."""


def windows(
    clip_frames: int,
    fps: float,
    wanted_frames: int,
    wanted_fps: float,
    *,
    most: int = 1,
    within: tuple[int, int] | None = None,
) -> list[Int64[np.ndarray, " frames"]] | Reason:
    """Choose the frames of a clip that are learnt: windows that share none, evenly spread.

    Frames are those nearest to ``wanted_fps``. A clip of fewer frames per second would have to
    repeat some, which teaches to stutter, so it has none; within 2 % its own frames are taken.

    Args:
        clip_frames: Of the clip.
        fps: At which they follow each other.
        wanted_frames: Of a window.
        wanted_fps: At which those follow each other.
        most: Windows of a clip; fewer where fewer fit.
        within: First frame that may be taken, and the first after it that may not; the whole clip
            if none are given.

    Returns:
        Numbers of frames of the clip, one array per window, or why there are none.

    Raises:
        BadValue: Nothing could ever be chosen so.
    """
    wanted = {"frames": wanted_frames, "fps": wanted_fps, "windows_per_clip": most}
    for name, given in wanted.items():
        if given <= 0:
            raise BadValue(name, given, "give more than 0.")
    if fps < _SLOWER * wanted_fps:
        return "too_few_fps"
    apart = max(fps / wanted_fps, 1.0)
    offsets = np.rint(np.arange(wanted_frames) * apart).astype(np.int64)
    first, end = within or (0, clip_frames)
    first, end = max(first, 0), min(end, clip_frames)
    spare = end - first - int(offsets[-1]) - 1
    if spare < 0:
        return "too_short"
    # To where the next window begins: as far as one more frame would be, so none is shared.
    long = int(np.rint(wanted_frames * apart))
    count = min(most, 1 + spare // long)
    gap = (spare - (count - 1) * long) / (count + 1)
    return [first + int((n + 1) * gap) + n * long + offsets for n in range(count)]


def wrong_with(
    window: Int64[np.ndarray, " frames"],
    looks: Sequence[Sequence[int]],
    main: int,
    masks: Bool[np.ndarray, "frames height width"] | None,
) -> Reason | None:
    """Say why a window is not learnt, if it is not.

    Args:
        window: Its frames, by their numbers in the clip.
        looks: For each track the frames of the clip in which its face was found.
        main: Which track is the person's.
        masks: The person's face in each frame of the window; None: there are none.
    """
    start, end = int(window[0]), int(window[-1])
    there = [any(start <= frame <= end for frame in track) for track in looks]
    if not 0 <= main < len(there) or not there[main]:
        return "no_track"
    if masks is None or not masks.any():
        return "no_mask"
    return "several_people" if sum(there) > 1 else None
