"""What happens to pictures on their way: saved anew, scaled, cut, photographed off a screen."""

from io import BytesIO

import numpy as np
from PIL import Image


def jpeg(picture, quality):
    out = BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=quality)
    with Image.open(out) as image:
        return np.array(image)


def resize(picture, factor):
    height, width = picture.shape[:2]
    size = round(width * factor), round(height * factor)
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def crop(picture, share, rng):
    """Cut a share of width and of height off, at a random place."""
    sides = [round(side * (1 - share)) for side in picture.shape[:2]]
    top, left = (rng.integers(0, a - b + 1) for a, b in zip(picture.shape, sides, strict=False))
    return picture[top : top + sides[0], left : left + sides[1]].copy()


def screenshot(picture):
    """Show at 80 % of the size on a brighter screen, and save what is seen."""
    shown = (resize(picture, 0.8) / 255.0) ** (1 / 1.15) * 255
    return jpeg(shown.round().astype(np.uint8), 80)


EDITS = {
    "as it is": lambda picture, _: picture,
    "JPEG 95": lambda picture, _: jpeg(picture, 95),
    "JPEG 85": lambda picture, _: jpeg(picture, 85),
    "JPEG 75": lambda picture, _: jpeg(picture, 75),
    "JPEG 50": lambda picture, _: jpeg(picture, 50),
    "resize 0.75": lambda picture, _: resize(picture, 0.75),
    "resize 0.5": lambda picture, _: resize(picture, 0.5),
    "crop 5 %": lambda picture, rng: crop(picture, 0.05, rng),
    "crop 10 %": lambda picture, rng: crop(picture, 0.10, rng),
    "crop 25 %": lambda picture, rng: crop(picture, 0.25, rng),
    "screenshot": lambda picture, _: screenshot(picture),
    "crop 10 %, JPEG 75": lambda picture, rng: jpeg(crop(picture, 0.10, rng), 75),
}
"""Each takes a picture and a random generator."""


def psnr_db(a, b):
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean()))
