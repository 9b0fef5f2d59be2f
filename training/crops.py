"""The pictures that a model is trained on, cut from photographs."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from stages.landmarks import ARCFACE_TEMPLATE_PX, DLIB_TEMPLATE, arcface5, similarity
from stages.models.faces import LandmarkScheme
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


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a picture, in its pixels."""

    left: int
    top: int
    width: int
    height: int

    def scale(self, width_px: int, height_px: int) -> Float64[np.ndarray, "2"]:
        """Return how many times the window is enlarged, across and down, to become a picture."""
        return np.array([width_px / self.width, height_px / self.height])

    def cut(self, picture: RGB, width_px: int, height_px: int) -> RGB:
        """Cut the window out and resize it."""
        inside = picture[self.top : self.top + self.height, self.left : self.left + self.width]
        shrinks = self.scale(width_px, height_px).max() < 1
        how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(inside, (width_px, height_px), interpolation=how), np.uint8)


def covering(
    picture_px: tuple[int, int], box_px: Float32[np.ndarray, "4"], shape_px: tuple[int, int]
) -> Window:
    """Find the largest window of a shape, with the face as near to its middle as the edges allow.

    Args:
        picture_px: Width and height of the picture.
        box_px: Left, top, right, bottom of the main face.
        shape_px: Width and height of what the window will become.
    """
    scale = max(wanted / there for wanted, there in zip(shape_px, picture_px, strict=True))
    return _window(picture_px, box_px, (round(shape_px[0] / scale), round(shape_px[1] / scale)))


def around(
    picture_px: tuple[int, int], box_px: Float32[np.ndarray, "4"], times: float = 2.0
) -> Window:
    """Find the square that is some times as large as the face, or as large as the picture allows.

    Twice is what IP-Adapter-FaceID-Portrait (arXiv:2308.06721) is trained on.
    """
    face_px = max(box_px[2] - box_px[0], box_px[3] - box_px[1])
    side = min(*picture_px, max(round(float(face_px) * times), 1))
    return _window(picture_px, box_px, (side, side))


def _window(
    picture_px: tuple[int, int], box_px: Float32[np.ndarray, "4"], size_px: tuple[int, int]
) -> Window:
    """Place a window: the middle of the face in its own, but inside the picture."""
    corner: list[int] = []
    for axis, (there, wanted) in enumerate(zip(picture_px, size_px, strict=True)):
        centre = round(float(box_px[axis] + box_px[axis + 2]) / 2)
        corner.append(int(np.clip(centre - wanted // 2, 0, there - wanted)))
    return Window(corner[0], corner[1], *size_px)


def arcface_crop(
    picture: RGB, points: Float32[np.ndarray, "5 2"], scheme: LandmarkScheme, side_px: int = 224
) -> RGB:
    """Cut the face upright and centred, as ArcFace's crops are, at a size that CLIP reads.

    It is what IP-Adapter-FaceID-Plus feeds to its image encoder: insightface's ``norm_crop`` with
    ``image_size=224``; from ``dlib5`` the points are estimated, see ``stages.landmarks.arcface5``.
    """
    matrix = similarity(arcface5(points[None], scheme), ARCFACE_TEMPLATE_PX * (side_px / 112))[0]
    return np.asarray(cv2.warpAffine(picture, matrix, (side_px, side_px)), np.uint8)
