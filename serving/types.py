"""What the parts of serving say to one another; nothing here knows HTTP, Ray or torch."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, UInt8

RGB = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """Whose face a picture is to have, as the curation stages measure it."""

    vector: Float32[np.ndarray, " dim"]
    """Raw, as the encoder gives it; of several photographs their mean."""
    embedder: str
    """The encoder: name@first 12 digits of its sha256. A model refuses another than its own."""
    faces: tuple[RGB, ...] = ()
    """Aligned crops, one per photograph, for models that also look at the picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """A picture to start from."""

    picture: RGB
    mask: Bool[np.ndarray, "height width"] | None = None
    """True where to draw; None: everywhere."""
    strength: float = 0.8
    """How much of the schedule is drawn anew: 1 keeps nothing, towards 0 keeps all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """One request for pictures, checked, its defaults filled in."""

    request_id: str
    adapter: str = ""
    """A registry name (``NAME``, ``NAME@alias``, ``NAME/version``); empty: the served model."""
    prompt: str = ""
    negative_prompt: str = ""
    reference: Reference | None = None
    identity_scale: float = 1.0
    start_step: int = 0
    """Steps drawn from the text alone before identity comes in (FastComposer, arXiv:2305.10431)."""
    width_px: int
    height_px: int
    pictures: int = 1
    seed: int
    """Of the first picture; the next ones count up, so each can be drawn again alone."""
    steps: int
    guidance: float
    edit: Edit | None = None
    previews: int = 0
    """How many unfinished pictures to send while drawing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """An unfinished picture."""

    index: int
    """Which preview, from 0."""
    picture: RGB


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """The answer to a ``Draw``."""

    pictures: tuple[RGB, ...]
    seeds: tuple[int, ...]
    model: str
    """What drew them: NAME/version, and the adapter's if another was asked for."""
    queued_s: float
    drawing_s: float
    batch: int
    """Pictures that were drawn together with these."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """What a generator serves, for the gateway to check requests against."""

    model: str
    kind: str
    """The method: ``base``, ``ip_adapter_faceid``, ..."""
    takes_text: bool
    takes_identity: bool
    embedder: str
    """The encoder whose vectors it understands."""
    backend: Literal["dlib", "insightface"]
    sides_px: tuple[int, int]
    """Width and height it was trained at, which are the default."""
    multiple_px: int
    """Sides must be multiples of this."""
    fixed_size: bool
    """Whether only the default size can be drawn."""
    looks_at_face: bool = False
    """Whether it also sees each reference face itself, not its vector alone."""
    labels: dict[str, str]
    """What the registry knows: corpus digest, recipe digest, licences, scores."""


@runtime_checkable
class Images(Protocol):
    """Draws pictures: in this process, or behind a handle of Ray Serve.

    Who awaits may be cancelled, and the drawing then stops at the next step. All methods raise
    ``serving.errors.Refusal`` for what the client, not the server, can mend.
    """

    async def info(self, adapter: str = "") -> ModelInfo:
        """Say what is served under a registry name, or by default."""
        ...

    async def draw(self, ask: Draw) -> Drawn:
        """Draw."""
        ...

    def stream(self, ask: Draw) -> AsyncIterator[Preview | Drawn]:
        """Draw, yielding previews and at last the answer."""
        ...

    async def healthy(self) -> bool:
        """Say whether a request now would be drawn: loaded, warm, the device answers."""
        ...
