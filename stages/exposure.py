"""Score how light or dark a face is."""

import numpy as np
from jaxtyping import Float32, UInt8

from stages.types import Batch

_REC709 = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)


def mean_luminance(
    chips: UInt8[np.ndarray, "faces side side 3"],
) -> Float32[np.ndarray, " faces"]:
    """Measure the light on a face: mean Rec. 709 luminance of the middle of its chip.

    The middle is half as wide and half as high as the chip: skin and eyes, no background and little
    hair. The stored values are weighted as they are, gamma and all (what Rec. 709 calls luma), so
    the numbers run as an eye judges them: mid grey is 0.5. Dark skin is no fault of exposure: set
    floors far below what any skin shows in fair light, 0.1 rather than 0.3.

    Returns:
        One value per chip: 0 for black, 1 for white.
    """
    quarter = chips.shape[1] // 4
    middle = chips[:, quarter:-quarter, quarter:-quarter].astype(np.float32)
    return np.asarray(middle.mean(axis=(1, 2)) @ _REC709 / 255, dtype=np.float32)


class ScoreExposure:
    """Add the exposure of every face; deciding what is too dark is left to ``Keep``."""

    reads = ("face_chips",)
    writes = ("face_exposures",)

    def __call__(self, batch: Batch) -> Batch:
        """Score every chip of every row."""
        return {"face_exposures": [mean_luminance(c).tolist() for c in batch["face_chips"]]}
