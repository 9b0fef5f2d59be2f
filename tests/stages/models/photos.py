"""Photographs of faces that installed packages carry, as upright RGB."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np


def _read(package, path):
    # find_spec does not import the package: insightface and skimage are slow to load.
    file = Path(find_spec(package).submodule_search_locations[0]) / path
    return np.ascontiguousarray(cv2.imread(str(file), cv2.IMREAD_COLOR)[:, :, ::-1])


@cache
def astronaut():
    """One woman, 512 x 512 px."""
    return _read("skimage", "data/astronaut.png")


@cache
def hanks():
    """One man, a close crop."""
    return _read("insightface", "data/images/Tom_Hanks_54745.png")


@cache
def group():
    """Six people in a row, 1280 x 886 px, faces of about 100 px."""
    return _read("insightface", "data/images/t1.jpg")
