"""Score a clip while its frames pass: motion, sharpness, black, frozen, letterbox, text."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float32, UInt8

from stages.types import RGB

_BLACK_LEVEL = 32
_BLACK_SHARE = 0.98
_FROZEN_CHANGE = 0.255
_BAR_LEVEL = 16.0
_GRID_PX = 8
_FEWEST_POINTS = 12
_RANSAC_PX = 0.5

_Line = npt.NDArray[np.float64]
Grey = UInt8[np.ndarray, "height width"]


@runtime_checkable
class TextReader(Protocol):
    """Finds writing in a picture: a backend for whoever has one, none is loaded by default."""

    def find(self, picture: RGB) -> Float32[np.ndarray, "texts 4"]:
        """Return the box of every piece of text: left, top, right, bottom in pixels."""
        ...


@dataclass(frozen=True, slots=True)
class Scores:
    """What is said of a clip. Motion is in picture diagonals per second, a mean over the looks."""

    motion: float
    """Mean length of the optical flow."""
    camera_motion: float
    """The part of it that one shift, turn and zoom of the whole picture explains."""
    person_motion: float | None
    """Median of the rest, around the faces; none without a face."""
    sharpness_p10: float
    """Laplacian variance of the picture at 256 px, grey levels squared; a tenth is below."""
    black_share: float
    """Frames of which 98 % is darker than 32 of 255."""
    frozen_share: float
    """Frames that repeat the one before."""
    letterbox_px: tuple[int, int, int, int]
    """Left, top, right and bottom bars that are black throughout, in pixels of the video."""
    text_share: float | None
    """Mean share of the picture under text; none without a reader."""


class ClipScores:
    """The running scores of one clip.

    Args:
        width_px: Of the video.
        height_px: Of the video.
        text_reader: Finds writing, where there is one.

    References:
        Kroeger et al., "Fast optical flow using dense inverse search", arXiv:1603.03590; the levels
        of black and frozen are those of FFmpeg's blackdetect and freezedetect.
    """

    def __init__(self, width_px: int, height_px: int, text_reader: TextReader | None) -> None:
        self._size_px, self._reader = (width_px, height_px), text_reader
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._last: tuple[Grey, float] | None = None
        self._now: tuple[Grey, float] | None = None
        self._frames = self._black = self._frozen = 0
        self._sharpness: list[float] = []
        self._motions: list[tuple[float, float]] = []
        self._people: list[float] = []
        self._texts: list[float] = []
        self._brightest: tuple[_Line, _Line] | None = None

    def add(self, small: RGB, time_s: float) -> None:
        """Take the next frame, at its small size."""
        grey = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
        self._last, self._now = self._now, (grey, time_s)
        self._frames += 1
        self._black += bool((grey < _BLACK_LEVEL).mean() >= _BLACK_SHARE)
        if self._last is not None:
            self._frozen += bool(cv2.absdiff(grey, self._last[0]).mean() < _FROZEN_CHANGE)

    def look(self, picture: RGB, boxes: Float32[np.ndarray, "faces 4"]) -> None:
        """Look closer at the frame just added, of which the faces are known.

        Args:
            picture: The frame at the size that faces were looked for in.
            boxes: Faces, as shares of width and height.
        """
        if self._now is None:
            raise RuntimeError("add a frame before it is looked at.")
        grey = self._now[0]
        self._sharpness.append(float(cv2.Laplacian(grey, cv2.CV_32F).var()))
        luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        rows, columns = luma.mean(axis=1), luma.mean(axis=0)
        if self._brightest is not None:
            rows = np.maximum(rows, self._brightest[0])
            columns = np.maximum(columns, self._brightest[1])
        self._brightest = rows, columns
        if self._reader is not None:
            self._texts.append(_covered(self._reader.find(picture), luma.shape))
        if self._last is not None:
            self._measure_motion(boxes)

    def finish(self) -> Scores:
        """Return the scores of all frames so far."""
        motions = np.array(self._motions or [(0.0, 0.0)]).mean(axis=0)
        return Scores(
            motion=float(motions[0]),
            camera_motion=float(motions[1]),
            person_motion=float(np.mean(self._people)) if self._people else None,
            sharpness_p10=float(np.percentile(self._sharpness or [0.0], 10)),
            black_share=self._black / max(self._frames, 1),
            frozen_share=self._frozen / max(self._frames - 1, 1),
            letterbox_px=self._letterbox(),
            text_share=float(np.mean(self._texts)) if self._texts else None,
        )

    def _measure_motion(self, boxes: Float32[np.ndarray, "faces 4"]) -> None:
        """Compare the frame with the one before it."""
        if self._last is None or self._now is None:
            return
        (before, then_s), (grey, now_s) = self._last, self._now
        if min(grey.shape) < 16:  # DIS works on patches
            return
        flow = np.zeros((*grey.shape, 2), dtype=np.float32)
        self._flow.calc(before, grey, flow)
        people = _people(boxes, grey.shape)
        camera = _camera(flow, people)
        per_s = 1 / (float(np.hypot(*grey.shape)) * max(now_s - then_s, 1e-6))
        lengths = [float(np.linalg.norm(each, axis=2).mean()) * per_s for each in (flow, camera)]
        self._motions.append((lengths[0], lengths[1]))
        if people.any():
            rest = np.linalg.norm(flow - camera, axis=2)[people]
            self._people.append(float(np.median(rest)) * per_s)

    def _letterbox(self) -> tuple[int, int, int, int]:
        """Measure the bars; a clip that is black all over has none."""
        if self._brightest is None:
            return 0, 0, 0, 0
        rows, columns = (np.flatnonzero(line > _BAR_LEVEL) for line in self._brightest)
        if not len(rows) or not len(columns):
            return 0, 0, 0, 0
        high, wide = (len(line) for line in self._brightest)
        across, down = self._size_px[0] / wide, self._size_px[1] / high
        left, right = columns[0] * across, (wide - 1 - columns[-1]) * across
        top, bottom = rows[0] * down, (high - 1 - rows[-1]) * down
        return round(left), round(top), round(right), round(bottom)


def _people(
    boxes: Float32[np.ndarray, "faces 4"], shape: tuple[int, ...]
) -> Bool[np.ndarray, "height width"]:
    """Mark where the people are whose faces are known: three faces wide, and down four more."""
    marked = np.zeros(shape, dtype=np.bool_)
    sizes = np.array([shape[1], shape[0]] * 2)
    for left, top, right, bottom in (boxes * sizes).tolist():
        wide, high = right - left, bottom - top
        rows = slice(max(round(top - high / 2), 0), max(round(bottom + 4 * high), 0))
        marked[rows, max(round(left - wide), 0) : max(round(right + wide), 0)] = True
    return marked


def _camera(
    flow: Float32[np.ndarray, "height width 2"], people: Bool[np.ndarray, "height width"]
) -> Float32[np.ndarray, "height width 2"]:
    """Return the flow that a shift, turn and zoom of everything but the people would give."""
    high, wide = people.shape
    ys, xs = np.mgrid[_GRID_PX // 2 : high : _GRID_PX, _GRID_PX // 2 : wide : _GRID_PX]
    here = np.stack([xs, ys], axis=-1)[~people[ys, xs]].astype(np.float32)
    if len(here) < _FEWEST_POINTS:  # the people fill the picture: take all of it
        here = np.stack([xs, ys], axis=-1).reshape(-1, 2).astype(np.float32)
    there = here + flow[here[:, 1].astype(int), here[:, 0].astype(int)]
    matrix, _ = cv2.estimateAffinePartial2D(here, there, ransacReprojThreshold=_RANSAC_PX)
    if matrix is None:
        return np.zeros_like(flow)
    ys, xs = np.mgrid[:high, :wide].astype(np.float32)
    matrix = np.asarray(matrix, dtype=np.float32)
    there_x = matrix[0, 0] * xs + matrix[0, 1] * ys + matrix[0, 2]
    there_y = matrix[1, 0] * xs + matrix[1, 1] * ys + matrix[1, 2]
    return np.stack([there_x - xs, there_y - ys], axis=-1).astype(np.float32)


def _covered(boxes_px: Float32[np.ndarray, "texts 4"], shape: tuple[int, ...]) -> float:
    """Return the share of a picture under boxes, which may overlap."""
    under = np.zeros(shape, dtype=np.bool_)
    for left, top, right, bottom in np.maximum(np.rint(boxes_px), 0).astype(int).tolist():
        under[top:bottom, left:right] = True
    return float(under.mean())
