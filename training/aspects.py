"""Aspect buckets: the few sizes that pictures of many shapes are brought to; free of torch.

A batch needs one size, and cutting every picture square loses heads and hands. So each goes to the
bucket whose shape is nearest its own (arXiv:2307.01952, section 2.3).
"""

from collections.abc import Sequence
from itertools import product
from math import log

from infra.errors import BadValue

_COARSE_FROM_PX = 512
_LEAST_AREA = 0.9
"""Share of ``image_px`` squared that a bucket has at least."""


def aspect_sizes(aspects: Sequence[str], image_px: int) -> tuple[tuple[int, int], ...]:
    """Return width and height in px of every aspect; aspects that come to one size share it.

    Sides are multiples of 64 px, which every UNet can halve often enough, and of 8 px below a size
    of 512. Among the sizes with 90 to 100 % of ``image_px`` squared each aspect gets the one that
    is nearest its shape. At 1024 px these are SDXL's.

    Args:
        aspects: Width to height, such as ``3:2``.
        image_px: Side of the square of the same area.

    Raises:
        BadValue: An aspect is none, or beyond 1:3 or 3:1.
    """
    step = 64 if image_px >= _COARSE_FROM_PX else 8
    sides = range(step, 4 * image_px, step)
    area = image_px**2
    fitting = [(w, h) for w, h in product(sides, sides) if _LEAST_AREA * area <= w * h <= area]
    sizes: list[tuple[int, int]] = []
    for aspect in aspects:
        wanted = _ratio(aspect)
        # An image_px that is no multiple of the step has its square all the same.
        near = min(fitting, key=lambda size: (abs(log(size[0] / size[1] / wanted)), -size[0]))
        sizes.append((image_px, image_px) if wanted == 1 else near)
    return tuple(dict.fromkeys(sizes))


def nearest_aspect(width_px: int, height_px: int, sizes: Sequence[tuple[int, int]]) -> int:
    """Return the number of the size whose shape is nearest a picture's."""
    shape = log(width_px / height_px)
    return min(range(len(sizes)), key=lambda n: (abs(log(sizes[n][0] / sizes[n][1]) - shape), n))


def _ratio(aspect: str) -> float:
    """Read ``3:2`` as 1.5."""
    try:
        width, height = (float(side) for side in aspect.split(":"))
        ratio = width / height
    except (ValueError, ZeroDivisionError):
        ratio = 0.0
    if not 1 / 3 <= ratio <= 3:
        raise BadValue("aspects", aspect, "give width:height between 1:3 and 3:1, such as '3:2'.")
    return ratio
