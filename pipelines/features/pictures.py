"""One exported row to what is trained on: the cut picture, and where the face lies in it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from infra.errors import UnreadableSource
from pipelines.features.recipes import PrepareRecipe
from stages.decode import BadPicture, decode
from stages.landmarks import unflatten
from stages.models.backend import load_embedder
from stages.models.faces import SCHEMES
from stages.types import RGB
from training.aspects import aspect_sizes, nearest_aspect
from training.crops import (
    Window,
    aligned,
    aligned_landmarks_px,
    aligned_mask,
    arcface_crop,
    around,
    covering,
)

WORK_PX = 4096
"""The long side at which photographs are decoded at most."""
Row = dict[str, Any]


def backend_of(embedder: str) -> str:
    """Return whose encoder and landmarks a row has."""
    return "dlib" if embedder.startswith("dlib") else "insightface"


def bucket_of(row: Row, recipe: PrepareRecipe) -> int:
    """Return the number of the aspect bucket that a row goes to."""
    sizes = aspect_sizes(recipe.aspects, recipe.image_px)
    return nearest_aspect(row["width_px"], row["height_px"], sizes)


def enlargement(row: Row, recipe: PrepareRecipe) -> float:
    """Return how many times a row's picture is enlarged; below 1 it shrinks.

    Aligned faces are all read from crops of one size, so nothing is said of them.
    """
    if recipe.crop == "aligned":
        return 1.0
    size_px = aspect_sizes(recipe.aspects, recipe.image_px)[bucket_of(row, recipe)]
    box_px = np.array(row["face_boxes_px"][0], np.float32)
    window = _window((row["width_px"], row["height_px"]), box_px, size_px, recipe)
    return float(window.scale(*size_px).max())


@dataclass(frozen=True, slots=True)
class Cut:
    """A picture to train on."""

    picture: RGB
    landmarks_px: Float32[np.ndarray, "5 2"]
    """Where the five points lie in ``picture``."""
    size: Float32[np.ndarray, "6"]
    """SDXL's micro-conditions, see ``training.method.Batch``; the crop in px after resizing."""
    face: RGB | None
    """The aligned face for the image encoder, if there is one."""


def cut(row: Row, recipe: PrepareRecipe) -> Cut:
    """Cut the training picture of a row.

    Raises:
        UnreadableSource: The corpus holds a picture that cannot be decoded.
    """
    try:
        decoded = decode(row["blob"], work_px=WORK_PX)
    except BadPicture as problem:
        raise UnreadableSource(
            recipe.corpus, f"its row {row['id']!r} is damaged ({problem})", "Export it again."
        ) from None
    pixels = decoded.pixels
    scale = pixels.shape[1] / decoded.width_px
    points = unflatten(row["face_landmarks_px"])[0] * scale
    face = None
    if recipe.image_encoder:
        face = arcface_crop(pixels, points, SCHEMES[backend_of(row["embedder"])])
    if recipe.crop == "aligned":
        side = recipe.image_px
        (picture,) = aligned(load_embedder("dlib", "", "cpu").align(pixels, points[None]), side)
        size = np.array([decoded.height_px, decoded.width_px, 0, 0, side, side], np.float32)
        return Cut(picture, aligned_landmarks_px(side), size, face)
    width_px, height_px = aspect_sizes(recipe.aspects, recipe.image_px)[bucket_of(row, recipe)]
    box_px = np.array(row["face_boxes_px"][0], np.float32) * scale
    window = _window((pixels.shape[1], pixels.shape[0]), box_px, (width_px, height_px), recipe)
    times = window.scale(width_px, height_px)
    left, top = np.array([window.left, window.top]) * times
    return Cut(
        window.cut(pixels, width_px, height_px),
        ((points - [window.left, window.top]) * times).astype(np.float32),
        np.array([decoded.height_px, decoded.width_px, top, left, height_px, width_px], np.float32),
        face,
    )


def _window(
    picture_px: tuple[int, int],
    box_px: Float32[np.ndarray, "4"],
    size_px: tuple[int, int],
    recipe: PrepareRecipe,
) -> Window:
    if recipe.crop == "portrait":
        return around(picture_px, box_px)
    return covering(picture_px, box_px, size_px)


def face_mask(
    each: Cut, recipe: PrepareRecipe, rows: int, columns: int
) -> Float32[np.ndarray, "rows columns"]:
    """Return 1 on the face and 0 elsewhere, at the resolution of the latents."""
    if recipe.crop == "aligned":
        return aligned_mask(rows, columns)
    height_px, width_px = each.picture.shape[:2]
    return _hull(each.landmarks_px, (width_px / columns, height_px / rows), rows, columns)


def _hull(
    points: Float32[np.ndarray, "5 2"], cell_px: tuple[float, float], rows: int, columns: int
) -> Float32[np.ndarray, "rows columns"]:
    """Draw an ellipse around five landmarks: about the face, from brow to chin."""
    low, high = points.min(0), points.max(0)
    centre, reach = (low + high) / 2, np.maximum((high - low), 1.0)
    y, x = np.mgrid[:rows, :columns].astype(np.float32) + 0.5
    across = (x * cell_px[0] - centre[0]) / reach[0]
    down = (y * cell_px[1] - centre[1]) / (1.6 * max(reach))
    return np.asarray(across**2 + down**2 <= 1, dtype=np.float32)
