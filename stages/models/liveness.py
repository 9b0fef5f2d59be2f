"""Does a living person stand before the camera, or a print, a screen, a mask?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from infra.errors import BadWeights
from infra.weights import sha256
from stages.models.faces import LandmarkScheme, ModelCard
from stages.types import RGB

_CURE = (
    "Give insightface's add-on liveness.onnx; `insightface.addons.catalog` has its address and "
    "SHA-256."
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is said of one face."""

    live: bool | None
    """None: the picture does not show enough around the face."""
    score: float
    """Probability that it lives; 0 where nothing is said."""


@runtime_checkable
class Liveness(Protocol):
    """Judges one face of a photograph."""

    card: ModelCard
    scheme: LandmarkScheme
    """The landmarks that it needs."""

    def judge(self, picture: RGB, landmarks_px: Float32[np.ndarray, "5 2"]) -> Judgement:
        """Judge a face by the whole picture and its five landmarks."""
        ...


class InsightLiveness:
    """Insightface's add-on of 80 x 80 px, with its author's threshold.

    It sees pixels of one photograph only: a good print, or a face that was edited into a picture,
    can pass. No error rates of it are known here.

    Args:
        path: The file ``liveness.onnx``.

    Raises:
        BadWeights: The file is not there, or is no such network.
    """

    scheme: LandmarkScheme = "arcface5"

    def __init__(self, path: Path) -> None:
        # A second to import, which only those pay who ask for it.
        import onnxruntime
        from insightface.addons.liveness import Liveness as Addon

        if not path.is_file():
            raise BadWeights(str(path), "is not there", _CURE)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            self._addon: Any = Addon(
                str(path), providers=["CPUExecutionProvider"], sess_options=options
            )
        except Exception as error:  # onnxruntime has a class for each way to be damaged
            raise BadWeights(str(path), f"is no liveness network ({error})", _CURE) from error
        license_ = "as insightface's model add-ons state"
        self.card = ModelCard(path.stem, sha256(path), license_, f"file:{path}")

    def judge(self, picture: RGB, landmarks_px: Float32[np.ndarray, "5 2"]) -> Judgement:
        """Judge a face, whose landmarks are in the scheme ``arcface5``."""
        told = self._addon.predict(np.ascontiguousarray(picture[..., ::-1]), landmarks_px)
        if told["status"] != "ok":
            return Judgement(None, 0.0)
        return Judgement(bool(told["is_live"]), float(told["live_score"]))
