"""Score how sharp a face is."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from stages.types import Batch

COMMON_PX = 112
"""Side at which chips are compared, whatever their embedder wants."""


def laplacian_variance(
    chips: UInt8[np.ndarray, "faces side side 3"],
) -> Float32[np.ndarray, " faces"]:
    """Measure focus as the variance of the image Laplacian, in grey levels squared.

    Blur removes the high frequencies that a Laplacian responds to, so a low variance means a soft
    face; so does a small face, enlarged to fill its chip. The value falls as resolution grows, so
    chips are first reduced to 112 px: the eyes are then about 35 px (ArcFace) or 39 px (dlib)
    apart, and one floor serves both. A chip that reaches beyond the picture has a black edge there,
    which counts as sharp.

    Returns:
        One score per chip: 0 for a flat one, more for a sharper one.

    References:
        Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000.
    """
    size = (COMMON_PX, COMMON_PX)
    variances = np.empty(len(chips), dtype=np.float32)
    for i, chip in enumerate(chips):
        small = cv2.resize(chip, size, interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        variances[i] = cv2.Laplacian(grey, cv2.CV_32F).var()
    return variances


class ScoreSharpness:
    """Add the sharpness of every face; deciding what is too soft is left to ``Keep``."""

    reads = ("face_chips",)
    writes = ("face_sharpness",)

    def __call__(self, batch: Batch) -> Batch:
        """Score every chip of every row."""
        return {"face_sharpness": [laplacian_variance(c).tolist() for c in batch["face_chips"]]}
