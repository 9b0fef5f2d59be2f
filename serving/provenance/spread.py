"""The weak mark: spread spectrum in luma, tiled, found again by its own synchronisation.

A picture is brought to a long side of 512 px. There a tile of 128 px, repeated, is added to its
luma: the sum of six patterns of band-limited noise, one that is always the same and five of 256
each, which say four bytes and a checksum. It is scaled by local contrast, so that it hides where
the picture is busy. The reader divides by local contrast, folds all tiles into one, and whitens
it. A correlation by FFT then finds the pattern that is always there, at any shift, hence after any
crop; scales are tried one by one. What is strongest of each 256 is the message: orthogonal
modulation, which needs no other code to correct errors.

Embedding is informed: it measures what the reader will see and puts in just enough for it.

It is weak in that it was made for accidents, not for attacks: JPEG, resizing, crops. It does not
survive turning, mirroring, squeezing or redrawing, and who has many pictures can estimate a part
of it. What it survives is measured by ``tests/bench/provenance.py``.

References:
    Cox et al., "Secure spread spectrum watermarking for multimedia", IEEE Trans. Image Processing
    6(12), 1997; Malvar and Florencio, "Improved spread spectrum", IEEE Trans. Signal Processing
    51(4), 2003, for informed embedding. Unlike both, patterns are tiled and matched after folding,
    for pictures are cropped and scaled.
"""

import hashlib

import cv2
import numpy as np
from jaxtyping import Complex64, Float32

from serving.provenance.watermark import FOUND_SIGMA, Reading
from serving.types import RGB

SIDE_PX, TILE_PX = 512, 128
BAND = (0.04, 0.2)
"""Cycles per pixel: below, pictures are too strong; above, JPEG and resizing leave nothing."""
SYMBOLS = 5  # four bytes and a checksum
TARGET, SYNC = 8.0, 1.4
"""What the reader is to find of each pattern, in standard deviations; of the one for
synchronisation as many times more."""
ROUNDS = 4
STRENGTH = 0.16  # of the local contrast, before it is fitted
WEAKEST, STRONGEST = 0.3, 2.5
CONTRAST_PX, LEAST_CONTRAST, MOST_CONTRAST = 4.0, 3.0, 18.0  # sigma of the window; grey levels
MOST_CROPPED, SCALE_STEP = 0.4, 0.004
"""A share of the long side that may be cut off, and how finely scales are tried: half a pixel of
the pattern at a picture's edge."""
SURE_SYNC = 12.0
CANDIDATES = 5
NULL_MEAN, NULL_SD = 2.82, 0.43
"""Of the largest of 256 standard normal numbers: what symbols read where there are none."""

Plane = Float32[np.ndarray, "height width"]
Coefficients = Complex64[np.ndarray, " band"]


class SpreadMark:
    """Marks and reads; see the module."""

    method = "visage-spread-1"
    strong = False
    least_px = 256

    def __init__(self, secret: bytes) -> None:
        """Draw the patterns of a secret: of each frequency in the band, only the phase."""
        across, down = np.fft.rfftfreq(TILE_PX), np.fft.fftfreq(TILE_PX)
        radius = np.hypot(across[None], down[:, None])
        # The first column holds every frequency twice, as itself and mirrored.
        self._band = (radius >= BAND[0]) & (radius <= BAND[1]) & (across[None] > 0)
        rows, columns = np.nonzero(self._band)
        self._waves = np.stack([down[rows], across[columns]])
        self._size = len(rows)
        seed = hashlib.sha256(self.method.encode() + secret).digest()
        rng = np.random.Generator(np.random.PCG64(int.from_bytes(seed, "big")))
        turns = rng.random((1 + SYMBOLS * 256, self._size))
        patterns = np.exp(2j * np.pi * turns).astype(np.complex64)
        self._sync, self._symbols = patterns[0], patterns[1:].reshape(SYMBOLS, 256, -1)

    def embed(self, picture: RGB, payload: int) -> RGB:
        """Return the picture with 32 bits in it; PSNR is 38 to 46 dB, by its contrast."""
        height, width = picture.shape[:2]
        luma = _canonical(picture)
        shape = luma.shape
        contrast = np.minimum(_contrast(luma)[1] + LEAST_CONTRAST, MOST_CONTRAST)
        message = [self._symbols[i, value] for i, value in enumerate(_symbols(payload))]
        patterns = np.stack([self._sync, *message])
        wanted = TARGET * np.array([SYNC] + [1.0] * SYMBOLS)
        amplitudes = wanted / TARGET
        for left in reversed(range(ROUNDS)):
            tile = self._tile(amplitudes @ patterns) * (TILE_PX**2 / (2 * self._size) ** 0.5)
            change = _tiled(tile, shape) * contrast * STRENGTH
            if not left:
                break
            seen = luma + _through(change, height, width)
            found = self._scores(patterns, self._folded(_contrast(np.clip(seen, 0, 255))[0]))
            step = np.clip(wanted / np.maximum(found, 1.0), 0.6, 1.8)
            amplitudes = np.clip(amplitudes * step, WEAKEST, STRONGEST)
        full = cv2.resize(change, (width, height), interpolation=cv2.INTER_CUBIC)
        return np.asarray(
            cv2.add(picture, cv2.merge([full, full, full]), dtype=cv2.CV_8U), dtype=np.uint8
        )

    def read(self, picture: RGB) -> Reading:
        """Look for a mark at all scales; 0.1 to 0.4 s where there is none."""
        plane = _contrast(_canonical(picture))[0]
        found: list[tuple[float, Coefficients]] = []
        for step in range(int(-np.log(1 - MOST_CROPPED) / SCALE_STEP) + 1):
            folded = self._folded(_scaled(plane, float(np.exp(-step * SCALE_STEP))))
            found.append(self._synchronised(folded))
            if found[-1][0] > SURE_SYNC:
                break
        found.sort(key=lambda one: -one[0])
        readings = [self._message(folded) for _, folded in found[:CANDIDATES]]
        return max(readings, key=lambda one: (one.payload is not None, one.confidence_sigma))

    def _folded(self, plane: Plane) -> Coefficients:
        """Fold all tiles into one and bring its frequencies to one strength, 1 on average."""
        height, width = plane.shape
        padded = np.zeros((-(-height // TILE_PX) * TILE_PX, -(-width // TILE_PX) * TILE_PX), "f4")
        padded[:height, :width] = plane
        folded = padded.reshape(-1, TILE_PX, padded.shape[1] // TILE_PX, TILE_PX).sum((0, 2))
        spectrum = np.fft.rfft2(folded) * self._band
        strength = cv2.blur(np.abs(spectrum).astype(np.float32), (7, 7))
        white = (spectrum / (strength + 1e-6))[self._band]
        power = float(np.square(np.abs(white)).mean()) ** 0.5
        return np.asarray(white / (power + 1e-9), dtype=np.complex64)

    def _tile(self, coefficients: Coefficients) -> Plane:
        spectrum = np.zeros(self._band.shape, np.complex64)
        spectrum[self._band] = coefficients
        return np.asarray(np.fft.irfft2(spectrum, s=(TILE_PX, TILE_PX)), dtype=np.float32)

    def _scores(
        self, patterns: Complex64[np.ndarray, "*patterns band"], folded: Coefficients
    ) -> Float32[np.ndarray, "*patterns"]:
        """Return how much of each pattern there is; of those that are not, with variance 1."""
        return np.asarray((patterns.conj() @ folded).real / (self._size / 2) ** 0.5, np.float32)

    def _synchronised(self, folded: Coefficients) -> tuple[float, Coefficients]:
        """Find where the pattern that is always there begins; shift it to the tile's corner."""
        scores = self._tile(folded * self._sync.conj()) * (TILE_PX**2 / (2 * self._size) ** 0.5)
        best = int(scores.argmax())
        turns = np.array(divmod(best, TILE_PX)) @ self._waves
        shifted = folded * np.exp(2j * np.pi * turns).astype(np.complex64)
        return float(scores.flat[best]), np.asarray(shifted, dtype=np.complex64)

    def _message(self, folded: Coefficients) -> Reading:
        scores = self._scores(self._symbols, folded)
        values = scores.argmax(axis=1)
        over = float(scores.max(axis=1).sum()) - SYMBOLS * NULL_MEAN
        sigma = over / (SYMBOLS**0.5 * NULL_SD)
        payload = int.from_bytes(bytes(values[:4].tolist()), "big")
        whole = sigma >= FOUND_SIGMA and _symbols(payload)[4] == values[4]
        return Reading(payload=payload if whole else None, confidence_sigma=round(sigma, 2))


def _symbols(payload: int) -> list[int]:
    """Return four bytes and their checksum."""
    data = payload.to_bytes(4, "big")
    return [*data, hashlib.sha256(data).digest()[0]]


def _canonical(picture: RGB) -> Plane:
    """Return luma at a long side of 512 px."""
    luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return _scaled(luma, SIDE_PX / max(luma.shape))


def _scaled(plane: Plane, scale: float) -> Plane:
    height, width = (max(1, round(side * scale)) for side in plane.shape)
    if (height, width) == plane.shape:
        return plane
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(plane, (width, height), interpolation=how), dtype=np.float32)


def _contrast(luma: Plane) -> tuple[Plane, Plane]:
    """Return the detail divided by its local strength, and that strength in grey levels."""
    detail = luma - cv2.GaussianBlur(luma, (0, 0), CONTRAST_PX)
    strength = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), CONTRAST_PX))
    return detail / (strength + LEAST_CONTRAST), strength


def _tiled(tile: Plane, shape: tuple[int, ...]) -> Plane:
    height, width = shape
    return np.tile(tile, (-(-height // TILE_PX), -(-width // TILE_PX)))[:height, :width]


def _through(change: Plane, height: int, width: int) -> Plane:
    """Return what is left of a change in a picture that is smaller than where it is made."""
    if height >= change.shape[0]:
        return change
    small = cv2.resize(change, (width, height), interpolation=cv2.INTER_CUBIC)
    back = cv2.resize(small, change.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(back, dtype=np.float32)
