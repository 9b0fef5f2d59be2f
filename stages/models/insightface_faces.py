"""Faces with insightface: SCRFD and ArcFace from a model pack, in batches.

The code of insightface is MIT; the weights of its packs are for non-commercial research only
unless a signed licence lies in the pack.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from infra.errors import BadValue, BadWeights
from infra.weights import sha256
from stages.landmarks import ARCFACE_TEMPLATE_PX, similarity
from stages.models.faces import Detections, GroupingPoints, LandmarkScheme, ModelCard
from stages.models.scrfd import BatchedScrfd, Scrfd
from stages.types import RGB

Pack = Any
"""``insightface.app.FaceAnalysis``, unnamed so that this file imports without insightface."""
ArcFace = Any
"""``insightface.model_zoo.arcface_onnx.ArcFaceONNX``."""

NON_COMMERCIAL = "non-commercial research only (insightface model packs)"
_CHIPS_PER_CALL = 128
_CURE = (
    "Give a folder with the .onnx files of a detector and a recogniser, or the name of a pack "
    "(buffalo_l) on a machine that reaches github.com."
)


class InsightDetector:
    """Find faces with SCRFD, several pictures in one run of the network.

    Every picture is fitted into a square of ``detect_px``, so a face's size there counts: SCRFD
    sees faces from about 12 px.

    Args:
        pack: A folder with ``.onnx`` files, or the name of a pack that insightface downloads.
        detect_px: Side of the square, a multiple of 32. A network with a fixed input keeps its own.
        min_score: Floor of the score, 0 to 1.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads of the network.

    Raises:
        BadWeights: The pack cannot be had or read, or its detector gives no landmarks.
        BadValue: ``device`` or ``detect_px`` cannot work.
    """

    scheme: LandmarkScheme = "arcface5"

    def __init__(
        self,
        pack: str,
        detect_px: int = 640,
        min_score: float = 0.5,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        self.min_score = min_score
        opened = open_pack(pack, device, threads)
        self.card = _card(opened, opened.det_model, pack)
        self._scrfd = BatchedScrfd(opened.det_model, detect_px)

    def detect(self, pictures: list[RGB]) -> list[Detections]:
        """Find the faces of every picture."""
        return self._scrfd.detect(pictures, self.min_score)


class InsightEmbedder:
    """Tell who a face is with ArcFace: vectors compared by their angle.

    Args:
        pack: A folder with ``.onnx`` files, or the name of a pack that insightface downloads.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads of the network.

    Raises:
        BadWeights: The pack cannot be had or read, or has no recogniser of 112 px.
        BadValue: ``device`` cannot work.

    References:
        Deng et al., "ArcFace: additive angular margin loss for deep face recognition",
        arXiv:1801.07698.
    """

    chip_px = 112
    metric: Literal["l2", "cosine"] = "cosine"
    same_person_below = 0.6
    """Similarity 0.4: what insightface 2.1 ships for its packs ``raccoon``, for several frames of a
    video together (its ``app/privateframe/configs/base.yaml``). The older packs name none, and we
    have measured none: calibrate it on pairs of your own before much depends on it."""
    grouping = GroupingPoints(
        metric="cosine",
        pair_below=0.45,
        group_below=0.55,
        labelled_below=0.65,
        duplicate_below=0.05,
    )
    """Not measured by us. Similarity 0.95 for one and the same photo is WebFace260M's
    (arXiv:2103.04098); the others stand around the similarity of 0.4 above."""

    def __init__(self, pack: str, device: str = "cpu", threads: int = 1) -> None:
        opened = open_pack(pack, device, threads)
        self._model = _recogniser(opened, self.chip_px)
        self.card = _card(opened, self._model, pack)
        self._step = 1 if self._model.input_shape[0] == 1 else _CHIPS_PER_CALL
        black = np.zeros((self.chip_px, self.chip_px, 3), dtype=np.uint8)
        self.dim = self._model.get_feat([black]).shape[1]

    def align(
        self, picture: RGB, landmarks_px: Float32[np.ndarray, "faces 5 2"]
    ) -> UInt8[np.ndarray, "faces side side 3"]:
        """Crop every face as ArcFace's training did, from landmarks in the scheme ``arcface5``."""
        chips = np.empty((len(landmarks_px), self.chip_px, self.chip_px, 3), dtype=np.uint8)
        matrices = similarity(landmarks_px, ARCFACE_TEMPLATE_PX)
        for chip, matrix in zip(chips, matrices, strict=True):
            chip[:] = cv2.warpAffine(picture, matrix, (self.chip_px, self.chip_px))
        return chips

    def embed(
        self, chips: UInt8[np.ndarray, "faces side side 3"]
    ) -> Float32[np.ndarray, "faces dim"]:
        """Embed chips in slices of at most 128, or one by one where the network takes one."""
        vectors = np.empty((len(chips), self.dim), dtype=np.float32)
        bgr = np.ascontiguousarray(chips[..., ::-1])
        for start in range(0, len(chips), self._step):
            part = slice(start, start + self._step)
            vectors[part] = self._model.get_feat(list(bgr[part]))
        return vectors


@lru_cache(maxsize=2)
def open_pack(pack: str, device: str, threads: int) -> Pack:
    """Return insightface's ``FaceAnalysis`` of a pack; detector and embedder share it.

    Raises:
        BadWeights: There is no such pack, it cannot be downloaded, or it is damaged.
        BadValue: ``device`` is not ``cpu`` or ``cuda``, or onnxruntime cannot use it.
    """
    # Importing them takes a second, which a worker without this backend should not pay.
    import onnxruntime
    from insightface.app import FaceAnalysis

    if device not in ("cpu", "cuda"):
        raise BadValue("device", device, "give 'cpu' or 'cuda'.")
    cure = "put onnxruntime-gpu and its CUDA in the place of onnxruntime, or give 'cpu'."
    if device == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise BadValue("device", device, cure)
    if not Path(pack).expanduser().is_dir() and Path(pack).name != pack:
        # Anything but a plain name would be downloaded to wherever it points.
        raise BadWeights(pack, "is not a folder", _CURE)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    providers = ["CUDAExecutionProvider"] if device == "cuda" else []
    try:
        opened = FaceAnalysis(
            name=pack,
            allowed_modules=["detection", "recognition"],
            providers=[*providers, "CPUExecutionProvider"],
            sess_options=options,
        )
    except AssertionError as error:
        raise BadWeights(pack, "is a pack without a face detector", _CURE) from error
    except Exception as error:
        words = f"could not be fetched or read ({type(error).__name__}: {error})"
        raise BadWeights(pack, words, _CURE) from error
    if not set(providers) <= set(opened.det_model.session.get_providers()):
        raise BadValue("device", device, cure)  # onnxruntime falls back to the CPU in silence
    return opened


def pack_cards(pack: str) -> list[ModelCard]:
    """Describe a pack's detector and recogniser.

    Raises:
        BadWeights: The pack cannot be had or read, or has no recogniser.
    """
    opened = open_pack(pack, "cpu", 1)
    models = opened.det_model, _recogniser(opened, InsightEmbedder.chip_px)
    return [_card(opened, model, pack) for model in models]


def _recogniser(opened: Pack, chip_px: int) -> ArcFace:
    """Return the network of a pack that tells who a face is."""
    model = opened.models.get("recognition")
    if model is None or tuple(model.input_size) != (chip_px, chip_px):
        raise BadWeights(opened.model_dir, f"holds no recogniser of {chip_px} px", _CURE)
    return model


def _card(opened: Pack, model: Scrfd | ArcFace, pack: str) -> ModelCard:
    """Describe one network of a pack."""
    from insightface.model_zoo.model_license import inspect_model_package_license

    path = Path(model.model_file)
    license_ = NON_COMMERCIAL
    found = inspect_model_package_license(opened.model_dir)
    if found.license is not None:
        license_ = f"{found.grant} (insightface licence {found.license.license_id})"
    elif not found.defaulted:
        license_ += f"; its MODEL.LICENSE is not accepted: {found.status}"
    source = f"file:{path}" if Path(pack).expanduser().is_dir() else f"insightface:{pack}"
    return ModelCard(f"{Path(opened.model_dir).name}/{path.stem}", sha256(path), license_, source)
