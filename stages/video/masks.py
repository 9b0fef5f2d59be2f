"""Mask a face through a clip: an ellipse per frame, or whatever a better backend finds."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int

from infra.errors import BadValue
from stages.landmarks import as_complex, mean_face
from stages.models.faces import LandmarkScheme
from stages.types import RGB

# How large a head's front is, in distances between the eyes: half across, half from chin to
# hairline, and from between the eyes down to the middle.
_HALF_WIDE, _HALF_HIGH, _BELOW_EYES = 1.15, 1.55, 0.45


@runtime_checkable
class Masker(Protocol):
    """Says of every pixel of a clip whether it is one track's face."""

    def masks(
        self,
        frames: Sequence[RGB],
        looks: Int[np.ndarray, " looks"],
        boxes_px: Float32[np.ndarray, "looks 4"],
        landmarks_px: Float32[np.ndarray, "looks 5 2"],
    ) -> Bool[np.ndarray, "frames height width"]:
        """Return a mask per frame.

        Args:
            frames: The clip, upright.
            looks: Numbers of the frames of ``frames`` that the face was found in, ascending.
            boxes_px: Its boxes there.
            landmarks_px: Its landmarks there.
        """
        ...


class EllipseMasker:
    """Mask a face by an ellipse laid on its landmarks: needs no weights.

    Between two looks the landmarks move on a straight line. Before the first look and after the
    last there is no mask, nor in gaps longer than ``max_gap`` frames. Turned heads are wider than
    the ellipse, hair and ears are outside it. ConsisID masks face, head and person by SAM 2 from
    its best box; such a backend fits ``Masker``.

    Args:
        scheme: Of the detector's landmarks.
        max_gap: Frames between two looks that are bridged.
    """

    def __init__(self, scheme: LandmarkScheme, max_gap: int = 20) -> None:
        if max_gap < 1:
            raise BadValue("max_gap", max_gap, "give 1 or more.")
        self.scheme, self.max_gap = scheme, max_gap

    def masks(
        self,
        frames: Sequence[RGB],
        looks: Int[np.ndarray, " looks"],
        boxes_px: Float32[np.ndarray, "looks 4"],
        landmarks_px: Float32[np.ndarray, "looks 5 2"],
    ) -> Bool[np.ndarray, "frames height width"]:
        """Return a mask per frame, see ``Masker``."""
        del boxes_px  # they say neither the size of the head nor how it is tilted
        high, wide = frames[0].shape[:2]
        out = np.zeros((len(frames), high, wide), dtype=np.bool_)
        if not len(looks):
            return out
        flat = landmarks_px.reshape(len(looks), 10)
        for frame in range(int(looks[0]), min(int(looks[-1]) + 1, len(frames))):
            after = int(np.searchsorted(looks, frame))
            if looks[after] != frame and looks[after] - looks[after - 1] > self.max_gap:
                continue
            points = np.array([np.interp(frame, looks, column) for column in flat.T])
            out[frame] = face_ellipse(
                points.reshape(5, 2).astype(np.float32), self.scheme, (high, wide)
            )
        return out


def face_ellipse(
    points: Float32[np.ndarray, "5 2"], scheme: LandmarkScheme, shape: tuple[int, int]
) -> Bool[np.ndarray, "height width"]:
    """Return the ellipse of a face: from chin to hairline, as wide as the cheeks.

    Size, place and tilt are those that lay the mean face on the landmarks best, so that an eye
    that is off by some pixels moves it little.

    Args:
        points: Landmarks in pixels.
        scheme: Which points they are.
        shape: Height and width of the picture.
    """
    mean_5 = as_complex(mean_face(scheme)[:, :2])
    seen_5 = as_complex(points)
    centred_5 = mean_5 - mean_5.mean()
    turn = (centred_5.conj() * (seen_5 - seen_5.mean())).sum() / (np.abs(centred_5) ** 2).sum()
    middle = seen_5.mean() + turn * (1j * _BELOW_EYES - mean_5.mean())
    size = float(np.abs(turn))
    mask = np.zeros(shape, dtype=np.uint8)
    axes = max(round(_HALF_WIDE * size), 1), max(round(_HALF_HIGH * size), 1)
    centre = round(float(middle.real)), round(float(middle.imag))
    cv2.ellipse(mask, centre, axes, float(np.degrees(np.angle(turn))), 0, 360, 1, thickness=-1)
    return mask.astype(np.bool_)
