"""Frames of a video: how they are turned upright and converted, and when they are shown."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from stages.types import RGB

_UNEVEN_SHARE = 0.25
_MATRIX_ONE = 1 << 16


@dataclass(frozen=True, slots=True)
class Facts:
    """What a whole video turned out to be."""

    width_px: int
    """Of the upright frame with square pixels."""
    height_px: int
    fps: float
    """Frames over duration: a mean, where the rate varies."""
    frames: int
    duration_s: float
    """From the first frame's beginning to the last one's end."""
    codec: str
    rotation_deg: int
    """Clockwise, by the display matrix: 0, 90, 180 or 270. Frames are already turned."""
    variable_rate: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """How stored frames become upright: exchange the axes, then mirror each.

    A display matrix (ISO/IEC 14496-12, section 8.3.2) takes x, y to a x + c y, b x + d y; of those
    that are no multiple of a quarter turn, the picture is left as it is stored.
    """

    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @staticmethod
    def of(frame: av.VideoFrame) -> "Turn":
        """Read the display matrix that goes with a frame."""
        stored: Any = frame.side_data.get("DISPLAYMATRIX")
        if stored is None:
            return Turn()
        a, b, _, c, d = (v / _MATRIX_ONE for v in np.frombuffer(bytes(stored), "<i4")[:5].tolist())
        if b == c == 0:
            return Turn(False, a < 0, d < 0)
        if a == d == 0:
            return Turn(True, c < 0, b < 0)
        return Turn()

    @property
    def clockwise_deg(self) -> int:
        """The turn without its mirroring."""
        if self.swap:
            return 90 if self.mirror_x else 270
        return 180 if self.mirror_y else 0

    def __call__(self, plane: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
        """Turn a picture, or one of its planes."""
        plane = plane.swapaxes(0, 1) if self.swap else plane
        return np.ascontiguousarray(
            plane[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]
        )


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame; it is turned and converted only as far as somebody asks."""

    index: int
    time_s: float
    """From the beginning of the first frame."""
    stored: av.VideoFrame
    turn: Turn
    width_px: int
    height_px: int

    def rgb(self, long_px: int | None = None) -> RGB:
        """Return 8-bit upright RGB with square pixels, its long side at most ``long_px``.

        More than 8 bits are rounded to 8. Wide-gamut and HDR transfer curves are not tone mapped.
        """
        scale = min(1.0, (long_px or np.inf) / max(self.width_px, self.height_px))
        width, height = (max(1, round(side * scale)) for side in (self.width_px, self.height_px))
        if self.turn.swap:
            width, height = height, width
        how = "AREA" if scale < 1 else "BILINEAR"
        shown = self.stored.reformat(width, height, "rgb24", interpolation=how)
        return self.turn(np.asarray(shown.to_ndarray(), dtype=np.uint8))

    def yuv420p(self) -> av.VideoFrame:
        """Return the upright frame as encoders want it: 8-bit, limited range, even sides.

        An odd side loses a pixel by scaling; otherwise 8-bit 4:2:0 frames stay as they are.
        """
        width, height = self.width_px // 2 * 2, self.height_px // 2 * 2
        if self.turn.swap:
            width, height = height, width
        even = self.stored.reformat(width, height, "yuv420p", dst_color_range="MPEG")
        if self.turn == Turn():
            return even
        planes = even.to_ndarray()
        luma, chroma = planes[:height], planes[height:].reshape(2, height // 2, width // 2)
        turned = [self.turn(luma), self.turn(chroma[0]), self.turn(chroma[1])]
        flat = np.concatenate([plane.reshape(-1) for plane in turned])
        stacked = flat.reshape(-1, turned[0].shape[1])
        return av.VideoFrame.from_ndarray(stacked, format="yuv420p")


class Steps:
    """The times of frames, from the file's ticks."""

    def __init__(self, time_base: Fraction, fps: float) -> None:
        self._tick_s, self._promised_s = float(time_base), 1 / fps
        self._origin_s = self._last_s = 0.0
        self._count, self._least_s, self._most_s = 0, np.inf, 0.0

    @property
    def step_s(self) -> float:
        """The mean step from frame to frame."""
        return self._last_s / self._count if self._count else self._promised_s

    @property
    def duration_s(self) -> float:
        """From the first frame's beginning to the end of the last, which lasts a mean step."""
        return self._last_s + self.step_s

    @property
    def uneven(self) -> bool:
        """Whether steps differ by more than rounding to ticks explains."""
        spread_s = self._most_s - self._least_s
        return self._count > 0 and spread_s > max(_UNEVEN_SHARE * self.step_s, 2 * self._tick_s)

    def begin(self, pts: int | None) -> None:
        """Take the first frame's time as 0."""
        self._origin_s = (pts or 0) * self._tick_s

    def next(self, pts: int | None) -> float:
        """Return a frame's time in seconds."""
        time_s = -1.0 if pts is None else pts * self._tick_s - self._origin_s
        if time_s <= self._last_s:
            time_s = self._last_s + self.step_s
        step_s = time_s - self._last_s
        self._least_s, self._most_s = min(self._least_s, step_s), max(self._most_s, step_s)
        self._last_s, self._count = time_s, self._count + 1
        return time_s
