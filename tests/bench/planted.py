"""Near-duplicates made on purpose: the same photograph, edited as people edit what they repost."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from stages.types import RGB

Bytes = npt.NDArray[np.uint8]


def near_copies(rows: int, share: float, max_distance: int, seed: int = 0) -> Bytes:
    """Draw ``rows`` PDQ hashes: independent ones, then near copies of the first of them.

    A copy differs from its original in 0 to ``max_distance`` bits, each number equally often.
    """
    draw = np.random.default_rng(seed)
    copies = round(rows * share)
    originals = draw.integers(0, 256, (rows - copies, 32), dtype=np.uint8)
    made = [originals]
    for start in range(0, copies, 65_536):
        bits = np.unpackbits(originals[start : min(start + 65_536, copies)], axis=1)
        flips = draw.integers(0, max_distance + 1, len(bits))
        places = draw.random(bits.shape, np.float32).argsort(axis=1).argsort(axis=1)
        made.append(np.packbits(bits ^ (places < flips[:, None]), axis=1))
    return np.concatenate(made)


def jpeg(picture: RGB, quality: int = 90) -> RGB:
    """Return what is left of a picture after it was saved as a JPEG."""
    bgr = np.ascontiguousarray(picture[:, :, ::-1])
    _, file = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(file, cv2.IMREAD_COLOR)[:, :, ::-1])


def _half(picture: RGB, _: np.random.Generator) -> RGB:
    return cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def _crop(picture: RGB, draw: np.random.Generator) -> RGB:
    """Take 5 % off the width and 5 % off the height, at a random side."""
    height, width = picture.shape[:2]
    off_y, off_x = round(0.05 * height), round(0.05 * width)
    top, left = draw.integers(0, off_y + 1), draw.integers(0, off_x + 1)
    return picture[top : top + height - off_y, left : left + width - off_x]


def _text(picture: RGB, _: np.random.Generator) -> RGB:
    height, width = picture.shape[:2]
    return cv2.putText(
        picture.copy(),
        "@someone 2019",
        (width // 20, height - height // 16),
        cv2.FONT_HERSHEY_SIMPLEX,
        width / 300,
        (255, 255, 255),
        max(1, width // 120),
    )


EDITS: dict[str, Callable[[RGB, np.random.Generator], RGB]] = {
    "JPEG quality 30": lambda picture, _: jpeg(picture, 30),
    "half size": _half,
    "5 % crop": _crop,
    "text": _text,
    "brightness + 40": lambda picture, _: cv2.convertScaleAbs(picture, alpha=1, beta=40),
    "mirror": lambda picture, _: picture[:, ::-1],
}


def edited(picture: RGB, seed: int) -> list[RGB]:
    """Return one copy per entry of ``EDITS``, each saved as a JPEG of quality 90 in the end."""
    draw = np.random.default_rng(seed)
    return [jpeg(edit(picture, draw)) for edit in EDITS.values()]


def photographs(tar: Path, number: int, seed: int = 0) -> list[tuple[str, RGB]]:
    """Read ``number`` photographs at random, with their names; the same seed gives the same."""
    with tarfile.open(tar) as archive:
        members = sorted((m for m in archive if m.isfile()), key=lambda m: m.name)
        draw = np.random.default_rng(seed)
        chosen = sorted(draw.choice(len(members), number, replace=False), key=int)
        pictures = []
        for at in chosen:
            file = archive.extractfile(members[at])
            assert file is not None
            bgr = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)
            pictures.append((members[at].name, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)))
    return pictures
