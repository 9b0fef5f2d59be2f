"""A drawn picture to a row of a corpus: marked as drawn, and measured as photographs are."""

import hashlib
import logging
from collections.abc import Callable
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from infra.errors import BadValue
from serving.provenance.settings import ProvenanceSettings
from stages.columns import COLUMNS
from stages.exposure import ScoreExposure
from stages.faces import AlignFaces, DetectFaces, EmbedFaces
from stages.hashes import Hash
from stages.models.backend import load_detector, load_embedder
from stages.pose import ScorePose
from stages.sharpness import ScoreSharpness
from stages.types import RGB
from training.crops import aligned_landmarks_px, chips_of_aligned
from training.evaluation.recognise import enlarged
from training.features import Features

logger = logging.getLogger(__name__)

Sign = Callable[[bytes], bytes]
MARK = "Synthetic"
"""Keyword of the PNG's text chunk; its text is ``true``."""
_DETECT_PX = 640
_MIN_SCORE = {"dlib": 0.0, "insightface": 0.5}
_TEXTS = ("url", "caption", "license", "final_url", "identity_name")
_STAGES = (Hash, DetectFaces, AlignFaces, EmbedFaces, ScorePose, ScoreSharpness, ScoreExposure)
_MEASURED = tuple(name for stage in _STAGES for name in stage.writes
                  if not COLUMNS[name].in_memory_only)  # fmt: skip
_GIVEN = ("id", "source", "source_row", "label", "identity", "identity_score", *_TEXTS, "blob",
          "width_px", "height_px", "mime", "bytes_len")  # fmt: skip
SCHEMA = pa.schema([
    *((name, COLUMNS[name].type) for name in (*_GIVEN, *_MEASURED)),
    ("synthetic", pa.bool_()),
    ("person", pa.int64()),
    ("picture", pa.int64()),
    ("people_cell", pa.string()),
    ("picture_cell", pa.string()),
    ("asked_vector", pa.list_(pa.float32())),
])  # fmt: skip
"""A curated corpus' columns; that nobody on it exists; who and what was asked for."""


def png(picture: RGB, model: str) -> bytes:
    """Encode a picture, with words in it that say that nobody took it."""
    said = PngInfo()
    said.add_text(MARK, "true")
    said.add_text("Software", f"Visage {version('visage')}")
    said.add_text("Description", f"Drawn by the model {model}: this person does not exist.")
    packed = BytesIO()
    Image.fromarray(picture).save(packed, "PNG", pnginfo=said)
    return packed.getvalue()


def signer(settings: ProvenanceSettings, model: str) -> tuple[Sign | None, str]:
    """Return what signs a PNG (C2PA), and who does, in words.

    Two signatures of one picture differ, as signing takes a time and random numbers.

    Raises:
        BadValue: Certificates cannot be read, or do not belong together.
    """
    if not settings.credentials:
        return None, "nobody, as asked"
    try:
        from c2pa import C2paError

        from serving.provenance.certificates import identity_of, local_identity
        from serving.provenance.credentials import Credentials, Made
    except ImportError as error:
        logger.warning("pictures are not signed: %s", error)
        return None, f"nobody: {error}"
    if settings.chain:
        identity = identity_of(
            settings.chain, key=settings.key, signer=settings.signer, trust=settings.trust
        )
    else:
        identity = local_identity(Path(settings.home).expanduser())
    credentials, made = Credentials(identity), Made(model=model)
    who = "a test root that only this machine believes" if identity.is_test else settings.chain

    def sign(blob: bytes) -> bytes:
        try:
            return credentials.sign(blob, "image/png", made)
        except C2paError as error:
            cure = f"signing failed ({error}); mend it, and give the same command again."
            raise BadValue("provenance", who, cure) from None

    return sign, who


class Looker:
    """Measures drawn pictures with the stages and models that the corpus was measured with.

    Args:
        features: Whose encoder is meant.
        aligned: Pictures are aligned crops: a face that is seen lies where they have it, and is
            embedded as it is. Otherwise it is looked for, and cropped.
        pack: The model pack of the backend ``insightface``.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, features: Features, *, aligned: bool, pack: str, device: str) -> None:
        backend, self.aligned = features.backend, aligned
        detector = load_detector(backend, pack, _DETECT_PX, _MIN_SCORE[backend], device)
        self.embedder = load_embedder(backend, pack, device)
        self._find = DetectFaces(lambda: detector)
        self._align = AlignFaces(lambda: self.embedder)
        self._pose, self._score = ScorePose(detector.scheme), (ScoreSharpness(), ScoreExposure())
        self._embed = EmbedFaces(lambda: self.embedder)

    def look(self, pictures: list[RGB], blobs: list[bytes]) -> list[dict[str, Any]]:
        """Return what the stages write of each picture."""
        batch: dict[str, Any] = {
            "blob": blobs,
            "pixels": pictures,
            "width_px": [picture.shape[1] for picture in pictures],
            "height_px": [picture.shape[0] for picture in pictures],
        }
        batch |= Hash()(batch)
        batch["pixels"] = [enlarged(picture) for picture in pictures]
        if self.aligned:
            batch["pixels"] = list(chips_of_aligned(np.stack(pictures)))
        batch |= self._find(batch)
        if self.aligned:
            batch |= _largest(batch)
        shown = [n for n, faces in enumerate(batch["num_faces"]) if faces]
        # Of the landmarks that were found: where aligned ones are placed says nothing of a pose.
        batch |= _of_shown(self._pose, batch, shown)
        batch |= self._placed(batch) if self.aligned else self._align(batch)
        for stage in (*self._score, self._embed):
            batch |= _of_shown(stage, batch, shown)
        batch["embedder"] = [self.embedder.card.tag] * len(pictures)
        return [{name: batch[name][n] for name in _MEASURED} for n in range(len(pictures))]

    def _placed(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Put each face where aligned pictures have it, and take the whole picture as its chip."""
        out: dict[str, list[Any]] = {
            name: [[] for _ in batch["num_faces"]]
            for name in ("face_boxes_px", "face_landmarks_px", "face_area_shares", "face_sizes_px")
        }
        for n, side in enumerate(batch["width_px"]):
            if batch["num_faces"][n]:
                wide, high = 0.76 * side, 0.96 * side  # the ellipse of ``aligned_mask``
                edges = [0.12 * side, 0.02 * side, 0.88 * side, 0.98 * side]
                out["face_boxes_px"][n] = [edges]
                out["face_landmarks_px"][n] = [aligned_landmarks_px(side).ravel().tolist()]
                out["face_area_shares"][n] = [wide * high / side**2]
                out["face_sizes_px"][n] = [wide]
        return out | {"face_chips": [chip[None] for chip in batch["pixels"]]}


def described(
    digest: str, cell: tuple[str, str], number: tuple[int, int], vector: np.ndarray, blob: bytes
) -> dict[str, Any]:
    """Return what is known of a picture before it is looked at.

    Args:
        digest: Of all that decides the corpus.
        cell: What was planned of the person and of the picture, in words.
        number: Of the person and of the picture.
        vector: What it was drawn from.
        blob: The file.
    """
    person, picture = number
    return dict.fromkeys(_TEXTS, "") | {
        "id": _hex(digest, "picture", person, picture),
        "source": f"synthetic {digest}",
        "source_row": None,
        "label": f"synthetic-{digest[:8]}-{person:07d}",
        "identity": identity_of_person(digest, person),
        "identity_score": 1.0,
        "blob": blob,
        "mime": "image/png",
        "bytes_len": len(blob),
        "synthetic": True,
        "person": person,
        "picture": picture,
        "people_cell": cell[0],
        "picture_cell": cell[1],
        "asked_vector": vector.tolist(),
    }


def identity_of_person(digest: str, person: int) -> str:
    """Return the identity of a drawn person, which no other corpus has."""
    return _hex(digest, "person", person)


def _hex(*parts: object) -> str:
    said = "/".join(str(part) for part in parts).encode()
    return hashlib.blake2b(said, digest_size=16, person=b"synthetic").hexdigest()


def _largest(batch: dict[str, Any]) -> dict[str, Any]:
    """Leave one face per picture: an aligned one shows nobody else."""
    found = {name: [held[:1] for held in batch[name]]
             for name in ("face_boxes_px", "face_scores", "face_landmarks_px",
                          "face_area_shares", "face_sizes_px")}  # fmt: skip
    return found | {"num_faces": [min(faces, 1) for faces in batch["num_faces"]]}


def _of_shown(stage: Any, batch: dict[str, Any], shown: list[int]) -> dict[str, Any]:  # noqa: ANN401 - any stage
    """Let a stage see the pictures with faces; of the others it says nothing."""
    count = len(batch["num_faces"])
    out: dict[str, list[Any]] = {name: [[] for _ in range(count)] for name in stage.writes}
    if not shown:
        return out
    told = stage({name: [batch[name][n] for n in shown] for name in stage.reads})
    for name, values in told.items():
        for n, value in zip(shown, values, strict=True):
            out[name][n] = value.tolist() if isinstance(value, np.ndarray) else value
    return out
