"""What tests of whole runs curate, and the command that does it."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

VISAGE = str(Path(sys.executable).with_name("visage"))


def save_crops(photograph, folder, pictures):
    """Save crops of one photograph, each another picture to every hash but alike."""
    rng = np.random.default_rng(0)
    with Image.open(photograph) as image:
        face = image.convert("RGB")
    for number in range(pictures):
        left, top = rng.integers(0, 60, 2)
        size = int(rng.integers(340, 400))
        face.crop((left, top, left + size, top + size)).save(folder / f"{number:03d}.jpg")


def curating(source, store, block_rows):
    """Return the command that curates such an album."""
    return [
        VISAGE, "curate", "photos", "--source.path", str(source), "--store", str(store), "--json",
        "--workers.block-rows", str(block_rows),
    ]  # fmt: skip
