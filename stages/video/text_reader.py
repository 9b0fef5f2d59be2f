"""Find writing in pictures with PaddleOCR's detector: a backend of ``TextReader``."""

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from jaxtyping import Float32

from infra.errors import BadWeights
from infra.weights import sha256
from stages.models.faces import ModelCard
from stages.types import RGB

_PACKAGE = "rapidocr_onnxruntime"
_PIN = "rapidocr-onnxruntime==1.4.4"
_LONG_PX = 640


class RapidOcrReader:
    """Finds lines of text, in any script, by the detector of PP-OCRv4 (4.7 MB, Apache-2.0).

    Of the package only the detector is used, whose weights are in its wheel; nothing is read, so
    nothing is loaded to read with, and no file is fetched. Pictures are looked at with a long side
    of 640 px at most: that is enough for subtitles, logos and banners, and takes about 0.1 s of a
    core. Letters below some 8 px there are not found; writing on clothes and signs is.

    The package's successor, ``rapidocr`` 3, has newer weights in its wheel, but insists on
    ``opencv-python-headless``, which overwrites the files of ``opencv-python``.

    Args:
        threads: Of ONNX Runtime.
        min_score: Mean certainty of a box below which it is none, 0 to 1.

    Raises:
        BadWeights: The package is not installed, or has other files than expected.

    References:
        Liao et al., "Real-time scene text detection with differentiable binarization",
        arXiv:1911.08947; https://github.com/RapidAI/RapidOCR.
    """

    def __init__(self, threads: int = 1, min_score: float = 0.5) -> None:
        settings, path = _settings()
        self.card = ModelCard(
            "PP-OCRv4-det",
            sha256(path),
            "Apache-2.0",
            f"package:{_PACKAGE}=={version(_PACKAGE)}",
        )
        self._detect: Any = import_module(f"{_PACKAGE}.ch_ppocr_det").TextDetector(
            settings
            | {
                "model_path": str(path),
                "limit_type": "max",  # by default small pictures are enlarged to 736 px
                "box_thresh": min_score,
                "intra_op_num_threads": threads,
                "inter_op_num_threads": threads,
            }
        )

    def find(self, picture: RGB) -> Float32[np.ndarray, "texts 4"]:
        """Return the box of every line of text: left, top, right, bottom in pixels."""
        high, wide = picture.shape[:2]
        scale = min(1.0, _LONG_PX / max(high, wide))
        size = max(1, round(wide * scale)), max(1, round(high * scale))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        # It was trained on OpenCV's order of colours.
        corners, _ = self._detect(np.ascontiguousarray(small[:, :, ::-1]))
        if corners is None or not len(corners):
            return np.zeros((0, 4), np.float32)
        back = np.array([wide / size[0], high / size[1]], np.float32)
        points = np.asarray(corners, np.float32).reshape(-1, 4, 2) * back
        boxes_px = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
        inside_px = np.clip(boxes_px, 0, np.array([wide, high] * 2, np.float32))
        return np.asarray(inside_px, dtype=np.float32)


def _settings() -> tuple[dict[str, Any], Path]:
    """Return the detector's settings as its package has them, and where its weights are."""
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        cure = f"Install it with: pip install {_PIN}"
        raise BadWeights(_PACKAGE, "is not installed, and finds writing in videos", cure)
    home = Path(found.origin).parent
    held: dict[str, Any] = yaml.safe_load((home / "config.yaml").read_text())["Det"]
    path = home / held["model_path"]
    if not path.is_file():
        raise BadWeights(str(path), "is not there", f"Install it with: pip install {_PIN}")
    return held, path
