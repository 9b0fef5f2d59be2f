"""Faces with dlib: real detection and identity from weights that come with a package."""

from typing import Literal

import cv2
import dlib
import numpy as np
from jaxtyping import Float, Float32, UInt8

from infra.errors import BadValue
from infra.weights import locate, sha256
from stages.models.faces import Detections, GroupingPoints, LandmarkScheme, ModelCard
from stages.types import RGB

_FOLDER = "package:face_recognition_models/models"
LANDMARKS = f"{_FOLDER}/shape_predictor_5_face_landmarks.dat"
"""The five-point file. The 68-point one beside it must not be used: its training set, iBUG 300-W,
excludes commercial use."""
IDENTITY = f"{_FOLDER}/dlib_face_recognition_resnet_model_v1.dat"

SMALLEST_FACE_PX = 80
"""Side of the window that the detector slides over the working picture."""
SMALL_PX = 300
"""Pictures with a shorter long side are doubled before landmarks are read and chips are cut."""
_CHIPS_PER_CALL = 64


def detector_card() -> ModelCard:
    """Describe the detector: its window is part of dlib, its landmarks are a file."""
    licenses = "CC0-1.0 (landmarks), Boost 1.0 (detector)"
    return ModelCard("dlib-hog", sha256(locate(LANDMARKS)), licenses, LANDMARKS)


def embedder_card() -> ModelCard:
    """Describe the identity network."""
    return ModelCard("dlib-resnet", sha256(locate(IDENTITY)), "CC0-1.0", IDENTITY)


class DlibDetector:
    """Find upright, nearly frontal faces: histograms of oriented gradients and a linear window.

    The window is 80 px wide (its box comes out as 73) and only the picture is scaled, so a face
    must be about 80 px wide in the working picture to be found reliably. That is the picture at a
    long side of ``detect_px``, but never more than doubled. In a photograph of 1280 px and at 640,
    faces below 160 px are missed more often than not.

    Args:
        detect_px: Long side of the working picture. The time grows with its square: about 20 ms
            at 640 on one core.
        min_score: Floor of the score. Scores are distances from the window's decision boundary:
            0 is the author's choice, clear faces reach 2 to 3, and a negative floor finds more
            faces and more of what is none.

    References:
        Dalal and Triggs, "Histograms of oriented gradients for human detection", CVPR 2005;
        King, "Max-margin object detection", arXiv:1502.00046; Kazemi and Sullivan, "One
        millisecond face alignment with an ensemble of regression trees", CVPR 2014.
    """

    scheme: LandmarkScheme = "dlib5"

    def __init__(self, detect_px: int = 640, min_score: float = 0.0) -> None:
        if detect_px < SMALLEST_FACE_PX:
            raise BadValue(
                "detect_px", detect_px, f"the detector's window alone has {SMALLEST_FACE_PX} px."
            )
        self.card = detector_card()
        self.detect_px, self.min_score = detect_px, min_score
        self._window = dlib.get_frontal_face_detector()
        self._landmarks = dlib.shape_predictor(str(locate(LANDMARKS)))

    def detect(self, pictures: list[RGB]) -> list[Detections]:
        """Find the faces of every picture, one picture after the other."""
        return [self._detect(np.ascontiguousarray(picture)) for picture in pictures]

    def _detect(self, picture: RGB) -> Detections:
        working = working_picture(picture, self.detect_px)
        rectangles, scores, _ = self._window.run(working, 0, self.min_score)
        # dlib's right and bottom are the last pixel inside, ours are edges.
        edges = [(r.left(), r.top(), r.right() + 1, r.bottom() + 1) for r in rectangles]
        height, width = (picture.shape[i] / working.shape[i] for i in (0, 1))
        scale = np.array([width, height, width, height])
        boxes_px = np.array(edges, dtype=np.float64).reshape(-1, 4) * scale
        sharp, times = doubled_if_small(picture)
        landmarks_px = [self._predict(sharp, box * times) / times for box in boxes_px]
        return Detections.of(
            boxes_px.astype(np.float32),
            np.array(scores, dtype=np.float32),
            np.array(landmarks_px, dtype=np.float32).reshape(-1, 5, 2),
        )

    def _predict(self, picture: RGB, box_px: Float[np.ndarray, "4"]) -> Float[np.ndarray, "5 2"]:
        left, top, right, bottom = (round(edge) for edge in box_px.tolist())
        shape = self._landmarks(picture, dlib.rectangle(left, top, right - 1, bottom - 1))
        return np.array([(point.x, point.y) for point in shape.parts()], dtype=np.float64)


def doubled_if_small(picture: RGB) -> tuple[RGB, int]:
    """Return a small picture at twice its size, and how many times larger it is: 2, or 1.

    dlib's landmarks are whole pixels, which is coarse on a face of 60. On LFW at 150 px, doubling
    for landmarks and chips lifts verification from 98.54 % to 98.7 %.
    """
    height, width = picture.shape[:2]
    if max(height, width) >= SMALL_PX:
        return picture, 1
    size = (2 * width, 2 * height)
    doubled = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    return np.asarray(doubled, dtype=np.uint8), 2


def working_picture(picture: RGB, detect_px: int) -> UInt8[np.ndarray, "height width"]:
    """Return the grey picture that the window slides over, at most twice as large as the picture.

    Of 4937 LFW photographs, doubled, 42 are left without a face this way, 54 with linear instead
    of cubic growing, and 31 in colour, which takes a quarter longer.
    """
    height, width = picture.shape[:2]
    scale = min(detect_px / max(height, width), 2.0)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, size, interpolation=how), dtype=np.uint8)


class DlibEmbedder:
    """Tell who a face is: dlib's identity network as a batched torch module.

    Args:
        device: ``cpu`` or ``cuda``.

    Raises:
        BadValue: The device is neither, or torch sees no GPU.
    """

    chip_px = 150
    metric: Literal["l2", "cosine"] = "l2"
    same_person_below = 0.6
    """The author's threshold, see ``DlibResnet``."""
    grouping = GroupingPoints(
        metric="cosine",
        pair_below=0.058,
        group_below=0.078,
        labelled_below=0.1,
        duplicate_below=0.01,
    )
    """Chosen on half of the people of LFW; on halves not seen, such choices give a pairwise F1 and
    a B-cubed F of 0.96, see ``tests/bench/people.py``. They suit some thousand faces: the more
    people there are, the more of them look alike, and the nearer 0 these must be. The angle between
    these vectors orders pairs better than their distance does: where one different-person pair in
    100,000 passes, 50 % of the same-person pairs do, against 35 % with L2."""

    def __init__(self, device: str = "cpu") -> None:
        # torch takes two seconds to import, and a worker that only detects needs none of it.
        import torch

        from stages.models.dlib_resnet import EMBEDDING_DIM, load_dlib_resnet

        if device not in ("cpu", "cuda"):
            raise BadValue("device", device, "give 'cpu' or 'cuda'.")
        if device == "cuda" and not torch.cuda.is_available():
            raise BadValue("device", device, "torch sees no GPU here; give 'cpu'.")
        self.card = embedder_card()
        self.dim = EMBEDDING_DIM
        self._network = load_dlib_resnet(locate(IDENTITY)).to(device)

    def align(
        self, picture: RGB, landmarks_px: Float32[np.ndarray, "faces 5 2"]
    ) -> UInt8[np.ndarray, "faces side side 3"]:
        """Crop every face as dlib does, from landmarks in the scheme ``dlib5``.

        dlib's landmarks are whole pixels, so coordinates are rounded: chips are equal bit for bit
        to ``dlib.get_face_chip`` on the predictor's own answer, even after the landmarks have been
        scaled to another size and back. Faces are cropped one by one: dlib's call for several
        shares one image pyramid between them, and no chip should depend on its neighbours.
        """
        picture, times = doubled_if_small(np.ascontiguousarray(picture))
        points_px = np.rint(landmarks_px * times).astype(int)
        chips = np.empty((len(landmarks_px), self.chip_px, self.chip_px, 3), dtype=np.uint8)
        for chip, points in zip(chips, points_px.tolist(), strict=True):
            parts = [dlib.point(x, y) for x, y in points]
            # Only the parts are read; the rectangle is whatever the constructor will take.
            face = dlib.full_object_detection(dlib.rectangle(0, 0, 1, 1), parts)
            chip[:] = dlib.get_face_chip(picture, face, size=self.chip_px, padding=0.25)
        return chips

    def embed(
        self, chips: UInt8[np.ndarray, "faces side side 3"]
    ) -> Float32[np.ndarray, "faces dim"]:
        """Embed chips in slices of at most 64, which take about 160 MB beside the weights.

        With the number of chips in a call the last bits of a vector change, by about 2e-7.
        """
        vectors = np.empty((len(chips), self.dim), dtype=np.float32)
        for start in range(0, len(chips), _CHIPS_PER_CALL):
            part = slice(start, start + _CHIPS_PER_CALL)
            vectors[part] = self._network.embed(chips[part])
        return vectors
