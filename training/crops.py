"""The square pictures that a model is trained on, cut from photographs."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from stages.landmarks import DLIB_TEMPLATE
from stages.types import RGB

CHIP_PX = 150
INNER_PX = 128
"""The middle of a chip that an aligned picture shows; beyond it a chip often leaves the photo."""
_EDGE_PX = (CHIP_PX - INNER_PX) // 2
_PADDING = 0.25


def aligned(chips: UInt8[np.ndarray, "faces 150 150 3"], image_px: int) -> list[RGB]:
    """Cut the inner part of dlib's chips and reduce it."""
    inner = chips[:, _EDGE_PX : _EDGE_PX + INNER_PX, _EDGE_PX : _EDGE_PX + INNER_PX]
    size = (image_px, image_px)
    return [np.asarray(cv2.resize(c, size, interpolation=cv2.INTER_AREA), np.uint8) for c in inner]


def chips_of_aligned(
    pictures: UInt8[np.ndarray, "faces side side 3"],
) -> UInt8[np.ndarray, "faces 150 150 3"]:
    """Undo ``aligned`` as far as that can be: enlarge, and repeat the edge outwards."""
    size = (INNER_PX, INNER_PX)
    rows = [cv2.resize(p, size, interpolation=cv2.INTER_CUBIC) for p in pictures]
    width = [(0, 0), (_EDGE_PX, _EDGE_PX), (_EDGE_PX, _EDGE_PX), (0, 0)]
    return np.pad(np.stack(rows), width, mode="edge").astype(np.uint8)


def aligned_landmarks_px(image_px: int) -> Float32[np.ndarray, "5 2"]:
    """Return where dlib's five points lie in every aligned picture.

    A chip is cut so that its points fall on these as nearly as a similarity allows, so the
    similarity between the two is what cuts the chip again.
    """
    chip = (DLIB_TEMPLATE + _PADDING) / (1 + 2 * _PADDING) * CHIP_PX
    return np.asarray((chip - _EDGE_PX) * (image_px / INNER_PX), dtype=np.float32)


def aligned_mask(rows: int, columns: int) -> Float32[np.ndarray, "rows columns"]:
    """Return 1 inside the ellipse that a face fills in an aligned picture, 0 outside."""
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    across, down = (x + 0.5) / columns - 0.5, (y + 0.5) / rows - 0.5
    return np.asarray((across / 0.38) ** 2 + (down / 0.48) ** 2 <= 1, dtype=np.float32)


def square(
    picture: RGB, box_px: Float32[np.ndarray, "4"], image_px: int
) -> tuple[RGB, float, float, float]:
    """Cut the largest square that holds as much of the face as it can, and resize it.

    Returns:
        The square, and what maps the photograph's coordinates into it: scale, left, top.
    """
    height, width = picture.shape[:2]
    side = min(height, width)
    centre_x, centre_y = (box_px[0] + box_px[2]) / 2, (box_px[1] + box_px[3]) / 2
    left = int(np.clip(round(float(centre_x)) - side // 2, 0, width - side))
    top = int(np.clip(round(float(centre_y)) - side // 2, 0, height - side))
    how = cv2.INTER_AREA if side > image_px else cv2.INTER_CUBIC
    cut = cv2.resize(
        picture[top : top + side, left : left + side], (image_px, image_px), interpolation=how
    )
    return np.asarray(cut, np.uint8), image_px / side, float(left), float(top)
