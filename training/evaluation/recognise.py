"""Who is seen in a drawn picture, by the encoder that the corpus was measured with."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from infra.errors import BadValue
from stages.models.backend import load_detector, load_embedder
from stages.types import RGB
from training.crops import CHIP_PX, aligned_landmarks_px, chips_of_aligned
from training.evaluation.metrics import cosines
from training.features import Features, Prepared

SMALLEST_PX = 150
"""Shorter sides are enlarged to this before a face is looked for."""
_DETECT_PX = {"dlib": 300, "insightface": 640}
_MIN_SCORE = {"dlib": 0.0, "insightface": 0.5}
_LOOKED_AT = 64


@dataclass(frozen=True)
class Seen:
    """Who is seen in each picture."""

    vectors: Float32[np.ndarray, "pictures dim"]
    """nan where no face could be embedded."""
    found: Bool[np.ndarray, " pictures"]
    """The detector sees a face."""


class Recogniser:
    """Embeds the face of every picture the way the corpus' photographs were embedded.

    Args:
        features: Whose encoder is meant.
        aligned: Pictures are the inner part of aligned crops (``training.crops.aligned``): the crop
            is undone as far as that can be and embedded, face or no face. Looking for the face and
            cropping it again would lose what little a picture of 64 px has. Otherwise the largest
            face that the detector finds is cropped and embedded.
        pack: The model pack of the backend ``insightface``.
        device: ``cpu`` or ``cuda``.

    Raises:
        BadValue: The encoder is another than the one behind the features, or cannot be had.
    """

    def __init__(
        self, features: Features, *, aligned: bool, pack: str = "", device: str = "cpu"
    ) -> None:
        self.aligned, backend = aligned, features.backend
        self._embedder = load_embedder(backend, pack, device)
        if (tag := self._embedder.card.tag) != features.embedder:
            raise BadValue(
                "pack",
                pack or tag,
                f"the features were made with the encoder {features.embedder}, and this one is "
                f"{tag}: distances between two encoders mean nothing. Give the same one.",
            )
        if aligned and self._embedder.chip_px != CHIP_PX:
            raise BadValue("backend", backend, "aligned pictures are cut for the backend 'dlib'.")
        self._detector = load_detector(
            backend, pack, _DETECT_PX.get(backend, 640), _MIN_SCORE.get(backend, 0.0), device
        )
        self._mean = np.array(features.identity_mean)
        self.encoder = tag
        self.metric: Literal["l2", "cosine"] = self._embedder.metric
        self.same_person_below = self._embedder.same_person_below

    @property
    def similarity_of(self) -> str:
        """Say what ``similarity`` compares."""
        return "cosine" if self.metric == "cosine" else "cosine of vectors less the corpus' mean"

    def similarity(
        self, a: Float[np.ndarray, "n dim"], b: Float[np.ndarray, "n dim"]
    ) -> Float[np.ndarray, " n"]:
        """Return the cosine between vectors, row by row; nan where nobody was seen.

        An encoder that is compared by Euclidean distance has all vectors around one direction
        (dlib: 0.84 between two people), so the corpus' mean is taken off first (then 0.01).
        """
        if self.metric == "l2":
            a, b = a - self._mean, b - self._mean
        return cosines(a, b)

    def look(self, pictures: UInt8[np.ndarray, "pictures height width 3"]) -> Seen:
        """Embed every picture's face, in pieces that fit memory."""
        parts = [
            self._look(pictures[start : start + _LOOKED_AT])
            for start in range(0, len(pictures), _LOOKED_AT)
        ]
        return Seen(
            np.concatenate([part.vectors for part in parts]),
            np.concatenate([part.found for part in parts]),
        )

    def _look(self, pictures: UInt8[np.ndarray, "pictures height width 3"]) -> Seen:
        if self.aligned:
            whole = chips_of_aligned(pictures)
            faces = self._detector.detect(list(whole))
            found = np.array([len(of_one.scores) > 0 for of_one in faces], dtype=bool)
            return Seen(self._embedder.embed(whole), found)
        large = [enlarged(picture) for picture in pictures]
        faces = self._detector.detect(large)
        found = np.array([len(of_one.scores) > 0 for of_one in faces], dtype=bool)
        vectors = np.full((len(pictures), len(self._mean)), np.nan, dtype=np.float32)
        if found.any():
            chips = [
                self._embedder.align(picture, of_one.landmarks_px[:1])[0]
                for picture, of_one in zip(large, faces, strict=True)
                if len(of_one.scores)
            ]
            vectors[found] = self._embedder.embed(np.stack(chips))
        return Seen(vectors, found)


def is_aligned(prepared: Prepared) -> bool:
    """Say whether the pictures are aligned crops: every face has its landmarks in one place."""
    some = np.arange(min(len(prepared), 8))
    where = prepared.read("landmarks", some).numpy()
    return bool(np.allclose(where, aligned_landmarks_px(prepared.features.image_px), atol=1e-3))


def enlarged(picture: RGB) -> RGB:
    """Enlarge what is too small for a detector."""
    height, width = picture.shape[:2]
    scale = SMALLEST_PX / min(height, width)
    if scale <= 1:
        return picture
    size = (round(width * scale), round(height * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
