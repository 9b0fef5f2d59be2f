"""The face's mask at the size of a layer.

Shapes: B samples, H rows, W columns of latents.
"""

from jaxtyping import Float, Shaped
from torch import Tensor, nn


def resized(
    mask: Shaped[Tensor, "B objects H W"], rows: int, columns: int
) -> Float[Tensor, "B objects rows columns"]:
    """Return the share of each larger pixel that is inside."""
    return nn.functional.adaptive_avg_pool2d(mask.float(), (rows, columns))
