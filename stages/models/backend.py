"""Face models by the name of their backend: ``dlib`` or ``insightface``."""

from functools import lru_cache

from infra.errors import BadValue, nearest
from stages.models.faces import Detector, Embedder, ModelCard

BACKENDS = ("dlib", "insightface")


@lru_cache(maxsize=4)
def load_detector(
    backend: str, pack: str, detect_px: int, min_score: float, device: str
) -> Detector:
    """Return a detector; within one process the same arguments give the same object.

    Args:
        backend: ``dlib`` or ``insightface``.
        pack: The model pack's folder or name; dlib needs none.
        detect_px: Size at which faces are looked for, see ``DlibDetector`` and ``InsightDetector``.
        min_score: Floor of the detector's own score.
        device: ``cpu`` or ``cuda``; dlib's detector runs on the CPU in any case.

    Raises:
        BadValue: There is no such backend, or a setting cannot work.
        BadWeights: The weights cannot be had or read.
    """
    _check(backend, pack)
    # Each backend is imported where it is asked for: a machine needs only its own libraries.
    if backend == "dlib":
        from stages.models.dlib_faces import DlibDetector

        return DlibDetector(detect_px, min_score)
    from stages.models.insightface_faces import InsightDetector

    return InsightDetector(pack, detect_px, min_score, device)


@lru_cache(maxsize=4)
def load_embedder(backend: str, pack: str, device: str) -> Embedder:
    """Return an embedder; stages that align and embed in one process share it.

    Raises:
        BadValue: There is no such backend, or a setting cannot work.
        BadWeights: The weights cannot be had or read.
    """
    _check(backend, pack)
    if backend == "dlib":
        from stages.models.dlib_faces import DlibEmbedder

        return DlibEmbedder(device)
    from stages.models.insightface_faces import InsightEmbedder

    return InsightEmbedder(pack, device)


def cards(backend: str, pack: str) -> list[ModelCard]:
    """Describe the detector and the embedder for a run's record, on the CPU.

    Raises:
        BadValue: There is no such backend.
        BadWeights: The weights cannot be had or read.
    """
    _check(backend, pack)
    if backend == "dlib":
        from stages.models.dlib_faces import detector_card, embedder_card

        return [detector_card(), embedder_card()]
    from stages.models.insightface_faces import pack_cards

    return pack_cards(pack)


def _check(backend: str, pack: str) -> None:
    """Refuse a backend that is not ours, or one without what it needs."""
    if backend not in BACKENDS:
        raise BadValue("backend", backend, nearest(backend, BACKENDS))
    if backend == "insightface" and not pack:
        raise BadValue("pack", pack, "the backend 'insightface' needs a model pack.")
