"""Hash each picture twice: its bytes, and what it looks like."""

from hashlib import sha256

import cv2
import numpy as np
import pdqhash
from jaxtyping import UInt8

from stages.types import Batch

HASH_PX = 512


def pdq(pixels: UInt8[np.ndarray, "height width 3"]) -> tuple[bytes, bytes, int]:
    """Hash what a picture looks like.

    Two hashes of one photograph, resized or recompressed, differ in few of their 256 bits: up to
    31 is the customary bound. Two photographs differ in about half.

    Args:
        pixels: An RGB picture; it is reduced to 512 px first, so that its size matters little.

    Returns:
        The hash and the hash of the mirrored picture, 32 bytes each, and the quality, 0 to 100:
        below 50 the picture is too plain for its hash to mean much.

    References:
        Facebook, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm", 2019.
    """
    height, width = pixels.shape[:2]
    scale = HASH_PX / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    # The mirror is hashed in earnest: compute_dihedral derives it from the 64 x 64 grid, which is
    # half a cell off, and then a mirrored and recompressed copy is missed three times as often.
    plain, quality = _compute(pixels)
    mirror, _ = _compute(pixels[:, ::-1])
    return plain, mirror, quality


def _compute(pixels: UInt8[np.ndarray, "height width 3"]) -> tuple[bytes, int]:
    # pdqhash reads the memory row by row, whatever the strides say.
    bits, quality = pdqhash.compute(np.ascontiguousarray(pixels))
    return np.packbits(bits).tobytes(), int(quality)


class Hash:
    """Add ``sha256`` of the file, and ``pdq``, ``pdq_mirror`` and ``pdq_quality`` of the pixels."""

    reads = ("blob", "pixels")
    writes = ("sha256", "pdq", "pdq_mirror", "pdq_quality")

    def __call__(self, batch: Batch) -> Batch:
        """Hash every picture in ``batch``."""
        looks = [pdq(pixels) for pixels in batch["pixels"]]
        return {
            "sha256": [sha256(blob).hexdigest() for blob in batch["blob"]],
            "pdq": [plain for plain, _, _ in looks],
            "pdq_mirror": [mirror for _, mirror, _ in looks],
            "pdq_quality": [quality for _, _, quality in looks],
        }
