"""Five points of a face as a picture: what InstantID's IdentityNet is shown.

Points are of ``arcface5``: the eyes, the tip of the nose and the corners of the mouth, those on the
picture's left first.
"""

import math

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from stages.landmarks import mean_face

_COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
"""Of the points, in RGB."""
_NOSE = 2
"""To which each other point is joined by a limb of its own colour, dimmed."""
_DIMMED = 0.6
_POINT_PX, _LIMB_PX = 10, 4
"""Radius of a point, and half the thickness of a limb."""
_SMALL_PX = 512
"""Below this side both shrink in proportion, or the points of a small face would be one blot."""
_EYES_APART = 0.2
"""Of the frontal face, as a share of the shorter side: a head and shoulders."""
_EYES_DOWN = 0.42
"""Where its eyes are, as a share of the height."""


def drawn_landmarks(
    points_px: Float[Tensor, "B 5 2"], height_px: int, width_px: int
) -> Float[Tensor, "B 3 height width"]:
    """Draw each face's points on black, RGB in 0 to 1, on the CPU.

    From 512 px on it is the published drawing, pixel for pixel. It is drawn at the size that the
    network sees: drawn on the photograph and then resized, as InstantID's training code does it,
    points and limbs differ in size from the ones that are drawn when pictures are asked for.

    Args:
        points_px: x and y of each point; any may be outside the picture.
        height_px: Of the picture.
        width_px: Of the picture.

    References:
        ``draw_kps`` of InstantID (arXiv:2401.07519), which diffusers' community pipeline has too.
    """
    pictures = [_drawn(face, height_px, width_px) for face in points_px.cpu().float().numpy()]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def frontal_landmarks_px(height_px: int, width_px: int) -> Float32[np.ndarray, "5 2"]:
    """Return where the points of a face are that looks at the camera, its head and shoulders seen.

    It is what is drawn where nobody says where the face should be.
    """
    face = mean_face("arcface5")[:, :2] * _EYES_APART * min(height_px, width_px)
    middle = np.array([width_px / 2, height_px * _EYES_DOWN])
    return np.asarray(face + middle, dtype=np.float32)


def _drawn(
    points: Float[np.ndarray, "5 2"], height_px: int, width_px: int
) -> UInt8[np.ndarray, "height width 3"]:
    small = min(1.0, min(height_px, width_px) / _SMALL_PX)
    radius, half = (max(1, round(px * small)) for px in (_POINT_PX, _LIMB_PX))
    picture = np.zeros((height_px, width_px, 3), np.uint8)
    nose = points[_NOSE]
    for at in (0, 1, 3, 4):
        along, middle = points[at] - nose, (points[at] + nose) / 2
        angle = math.degrees(math.atan2(along[1], along[0]))
        axes = (int(float(np.hypot(*along)) / 2), half)
        ellipse = cv2.ellipse2Poly(_whole(middle), axes, int(angle), 0, 360, 1)
        cv2.fillConvexPoly(picture, np.asarray(ellipse), _COLOURS[at])
    picture = (picture * _DIMMED).astype(np.uint8)
    for point, colour in zip(points, _COLOURS, strict=True):
        cv2.circle(picture, _whole(point), radius, colour, -1)
    return picture


def _whole(point: Float[np.ndarray, "2"]) -> tuple[int, int]:
    return int(point[0]), int(point[1])
