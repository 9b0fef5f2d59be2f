"""What is asked of a face detector and of a face embedder, whoever made them."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from stages.types import RGB


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a row and a run record say of a model."""

    name: str
    sha256: str
    license: str
    source: str

    @property
    def tag(self) -> str:
        """The short form that every row carries."""
        return f"{self.name}@{self.sha256[:12]}"


LandmarkScheme = Literal["dlib5", "arcface5"]
"""Which five points.

``dlib5``: outer and inner corner of the eye on the picture's right, outer and inner corner of the
eye on its left, base of the nose. ``arcface5``: centres of the left and right eye, tip of the nose,
left and right corner of the mouth, left and right as seen in the picture.
"""


SCHEMES: dict[str, LandmarkScheme] = {"dlib": "dlib5", "insightface": "arcface5"}
"""The points that each backend's detector gives."""


@dataclass(frozen=True, slots=True)
class Detections:
    """The faces of one picture, in its pixels, largest box first."""

    boxes_px: Float32[np.ndarray, "faces 4"]
    """Left, top, right, bottom; may reach beyond the picture's edge by a little."""
    scores: Float32[np.ndarray, " faces"]
    landmarks_px: Float32[np.ndarray, "faces 5 2"]

    @staticmethod
    def of(
        boxes_px: Float32[np.ndarray, "faces 4"],
        scores: Float32[np.ndarray, " faces"],
        landmarks_px: Float32[np.ndarray, "faces 5 2"],
    ) -> "Detections":
        """Put faces in their order: by area, then by place, so that ties do not wander."""
        sides = boxes_px[:, 2:] - boxes_px[:, :2]
        order = np.lexsort((boxes_px[:, 1], boxes_px[:, 0], -sides.prod(axis=1)))
        return Detections(boxes_px[order], scores[order], landmarks_px[order])


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupingPoints:
    """The distances at which an embedder's vectors are grouped into people.

    Verification asks about one pair; grouping asks about all pairs at once, nearly all of which are
    of two people. So ``pair_below`` is far stricter than ``Embedder.same_person_below``.
    """

    metric: Literal["l2", "cosine"]
    """How vectors are compared here: what orders pairs best, not always what verification uses."""
    pair_below: float
    """Two single photos that nothing else speaks for are one person below this distance."""
    group_below: float
    """What the limit rises to between large groups: a mean over many pairs is surer than one."""
    labelled_below: float
    """Photos that come with one label are taken for one person below this mean distance."""
    duplicate_below: float
    """Below this distance two photos of a person are the same photo."""


@runtime_checkable
class Detector(Protocol):
    """Finds faces."""

    card: ModelCard
    scheme: LandmarkScheme

    def detect(self, pictures: list[RGB]) -> list[Detections]:
        """Find the faces of every picture: one answer per picture, possibly empty."""
        ...


@runtime_checkable
class Embedder(Protocol):
    """Turns an aligned face into a vector that tells who it is."""

    card: ModelCard
    chip_px: int
    """Side of the square crop it wants."""
    metric: Literal["l2", "cosine"]
    """How two vectors are compared: ``l2`` on raw vectors, or cosine distance (1 - similarity)."""
    same_person_below: float
    """The distance under which its author calls two photos one person."""

    def align(
        self, picture: RGB, landmarks_px: Float32[np.ndarray, "faces 5 2"]
    ) -> UInt8[np.ndarray, "faces side side 3"]:
        """Crop every face the way the network was trained: upright, centred, of one size."""
        ...

    def embed(
        self, chips: UInt8[np.ndarray, "faces side side 3"]
    ) -> Float32[np.ndarray, "faces dim"]:
        """Embed all ``chips`` in as few calls of the network as memory allows."""
        ...


def distance(
    a: Float32[np.ndarray, "*pairs dim"],
    b: Float32[np.ndarray, "*pairs dim"],
    metric: Literal["l2", "cosine"],
) -> Float32[np.ndarray, "*pairs"]:
    """Compare vectors the way their embedder is meant to be compared."""
    if metric == "l2":
        return np.asarray(np.linalg.norm(a - b, axis=-1), dtype=np.float32)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray(1 - (a * b).sum(axis=-1) / np.maximum(norms, 1e-12), dtype=np.float32)
