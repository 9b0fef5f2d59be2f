"""Marks in pixels: what is left to say where a picture is from when its credential is gone.

A mark carries 32 bits, which name a request in the records: ``serving/provenance/fingerprints.py``.
The strong backend is a network by Meta, if its weights are given; the weak one is ours and always
there. Neither stops somebody who means to remove it: a scrubbed mark is found missing only where
a credential still names it.

References:
    Kim et al., "WOUAF: Weight Modulation for User Attribution and Fingerprinting in Text-to-Image
    Diffusion Models", CVPR 2024, whose purpose this serves by other means: the mark is put into
    the picture, not into the weights, so one model serves all users.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from serving.provenance.settings import ProvenanceSettings
from serving.types import RGB

PAYLOAD_BITS = 32
FOUND_SIGMA = 7.0
"""From this confidence on a mark is found: what unmarked pictures reach once in many billions if
their noise were normal. ``tests/bench/provenance.py`` counts what real ones reach."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What was read out of a picture."""

    payload: int | None
    """None: no mark was found."""
    confidence_sigma: float
    """How far the evidence is above what unmarked pictures show, in their standard deviations."""


@runtime_checkable
class Watermark(Protocol):
    """Puts 32 bits into pixels, and reads them back. Safe to use from many threads."""

    method: str
    """Its name, which credentials and answers carry."""
    strong: bool
    """Whether it was made to resist editing on purpose; else it is a weak one, and says so."""
    least_px: int
    """Shorter side of the smallest picture that it marks."""

    def embed(self, picture: RGB, payload: int) -> RGB:
        """Return a picture that looks the same and carries ``payload``."""
        ...

    def read(self, picture: RGB) -> Reading:
        """Say what a picture carries."""
        ...


def load_watermark(settings: ProvenanceSettings, secret: bytes) -> Watermark | None:
    """Return what marks pictures by a recipe; None: nothing does.

    Args:
        settings: Which, and its weights.
        secret: What marks are made of: who does not know it neither reads nor forges them.

    Raises:
        BadWeights: The file is not there, not the one that was named, or of another kind.
    """
    if settings.watermark == "none":
        return None
    if settings.watermark == "spread":
        from serving.provenance.spread import SpreadMark

        return SpreadMark(secret)
    from serving.provenance.neural import NeuralMark

    return NeuralMark(settings.weights, settings.weights_sha256, secret)
