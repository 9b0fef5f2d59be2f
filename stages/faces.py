"""Find the faces of a picture, crop them, tell who they are.

The pixels that pass between stages may be smaller than the picture they came from. What is written
is in the picture's own pixels (``width_px`` x ``height_px``), so it stays true whatever the size
was that the models worked at.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float32

from stages.landmarks import unflatten
from stages.models.faces import Detections, Detector, Embedder
from stages.types import RGB, Batch


class DetectFaces:
    """Find every face: box, five landmarks, score, size; largest first.

    Args:
        make_detector: Called once, in the worker; loads the weights.
    """

    reads = ("pixels", "width_px", "height_px")
    writes = (
        "num_faces",
        "face_boxes_px",
        "face_scores",
        "face_landmarks_px",
        "detector",
        "face_area_shares",
        "face_sizes_px",
    )

    def __init__(self, make_detector: Callable[[], Detector]) -> None:
        self.detector = make_detector()

    def __call__(self, batch: Batch) -> Batch:
        """Find the faces of all pictures in one call of the detector."""
        found = self.detector.detect(list(batch["pixels"]))
        out: dict[str, list[Any]] = {name: [] for name in self.writes}
        pictures = zip(batch["pixels"], batch["width_px"], batch["height_px"], strict=True)
        for faces, (pixels, width_px, height_px) in zip(found, pictures, strict=True):
            for name, value in self._describe(faces, pixels, width_px, height_px).items():
                out[name].append(value)
        return out

    def _describe(
        self, faces: Detections, pixels: RGB, width_px: int, height_px: int
    ) -> dict[str, Any]:
        """Return what is written of one picture."""
        scale = _scale(pixels, width_px, height_px)
        boxes_px = faces.boxes_px * np.tile(scale, 2)
        landmarks_px = faces.landmarks_px * scale
        edges = np.array([width_px, height_px] * 2, dtype=np.float32)
        inside = np.clip(boxes_px, 0, edges)
        areas = (inside[:, 2:] - inside[:, :2]).prod(axis=1)
        return {
            "num_faces": len(boxes_px),
            "face_boxes_px": boxes_px.tolist(),
            "face_scores": faces.scores.tolist(),
            "face_landmarks_px": landmarks_px.reshape(-1, 10).tolist(),
            "detector": self.detector.card.tag,
            "face_area_shares": (areas / (width_px * height_px)).tolist(),
            "face_sizes_px": (boxes_px[:, 2:] - boxes_px[:, :2]).min(axis=1).tolist(),
        }


class AlignFaces:
    """Crop every face the way the embedder was trained.

    Args:
        make_embedder: Called once, in the worker; give ``EmbedFaces`` beside it the same cached
            one, and the weights are loaded once.
    """

    reads = ("pixels", "width_px", "height_px", "face_landmarks_px")
    writes = ("face_chips",)

    def __init__(self, make_embedder: Callable[[], Embedder]) -> None:
        self.embedder = make_embedder()

    def __call__(self, batch: Batch) -> Batch:
        """Crop the faces of every picture; one without faces gets an array of none."""
        rows = zip(*(batch[name] for name in self.reads), strict=True)
        return {
            "face_chips": [
                self.embedder.align(
                    pixels, unflatten(landmarks) / _scale(pixels, width_px, height_px)
                )
                for pixels, width_px, height_px, landmarks in rows
            ]
        }


class EmbedFaces:
    """Turn every crop into an identity vector, as the network gives it.

    Args:
        make_embedder: Called once, in the worker; the same that made the crops.
    """

    reads = ("face_chips",)
    writes = ("face_embeddings", "embedder")

    def __init__(self, make_embedder: Callable[[], Embedder]) -> None:
        self.embedder = make_embedder()

    def __call__(self, batch: Batch) -> Batch:
        """Embed the faces of the whole batch in one go, and hand each row its own."""
        chips = batch["face_chips"]
        vectors = self.embedder.embed(np.concatenate(list(chips)))
        ends = np.cumsum([len(faces) for faces in chips])
        return {
            "face_embeddings": np.split(vectors, ends[:-1]),
            "embedder": [self.embedder.card.tag] * len(chips),
        }


def _scale(pixels: RGB, width_px: int, height_px: int) -> Float32[np.ndarray, "2"]:
    """Return how many of the picture's pixels, across and down, one pixel at hand stands for."""
    height, width = pixels.shape[:2]
    return np.array([width_px / width, height_px / height], dtype=np.float32)
