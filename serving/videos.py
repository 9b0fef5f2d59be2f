"""What draws videos: a protocol of steps, so that a drawing can stop and go on between any two.

A drawing is ``begin``, ``step`` until all steps are done, ``frames``. What it needs in between is
its ``State`` alone, which is written to disk: so another process goes on where one has died, and
the frames are those that the first would have drawn.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from infra.errors import BadValue, nearest
from serving.recipes import ServeRecipe
from serving.types import RGB, Reference

Frames = UInt8[np.ndarray, "frames height width 3"]


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoDraw:
    """One request for a video, checked, its defaults filled in."""

    request_id: str
    prompt: str = ""
    negative_prompt: str = ""
    reference: Reference | None = None
    identity_scale: float = 1.0
    width_px: int
    height_px: int
    frames: int
    seed: int
    steps: int
    guidance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """What a model draws; known without its weights."""

    model: str
    takes_text: bool
    takes_identity: bool
    embedder: str
    """The encoder whose vectors it understands; empty: any."""
    sides_px: tuple[int, int]
    """Width and height by default."""
    multiple_px: int
    """Sides must be multiples of this."""
    frames: int
    """By default."""
    max_frames: int
    fps: int
    """Frames per second at which its videos play."""
    looks_at_face: bool = False
    """Whether it is told how the reference face looks, not its vector alone."""
    fixed_frames: bool = False
    """Whether it draws videos of ``frames`` only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """A drawing between two steps."""

    next_step: int
    """Of the steps, from 0; as many as there are: all are done."""
    arrays: Mapping[str, np.ndarray]
    """By name; such as the latents."""


@runtime_checkable
class Videos(Protocol):
    """Draws videos in this process; blocking, and safe to use from several threads.

    The same request gives the same frames, however often it is interrupted between two steps.
    """

    @property
    def info(self) -> VideoInfo:
        """Say what is drawn."""
        ...

    def begin(self, ask: VideoDraw) -> State:
        """Return what a drawing starts from."""
        ...

    def step(self, ask: VideoDraw, state: State) -> State:
        """Return what a drawing is after the next step."""
        ...

    def preview(self, ask: VideoDraw, state: State) -> RGB:
        """Return how the frame in the middle looks by now, for whoever waits."""
        ...

    def frames(self, ask: VideoDraw, state: State) -> Frames:
        """Return the frames when all steps are done."""
        ...


INFOS = {
    "random:tiny-animatediff": VideoInfo(
        model="random:tiny-animatediff", takes_text=True, takes_identity=True, embedder="",
        sides_px=(64, 64), multiple_px=16, frames=16, max_frames=32, fps=8,
    ),
}  # fmt: skip
_MAKERS = {"random:tiny-animatediff": "serving.animatediff:TinyAnimateDiff"}


def video_info(recipe: ServeRecipe) -> VideoInfo:
    """Say what a deployment's model of videos draws, without loading its base.

    Raises:
        BadInput: There is no such model, or it draws no videos.
    """
    model = recipe.videos.model
    if not model.startswith("random:"):
        info: VideoInfo = _exports().info_of(_exports().found(recipe))
        return info
    if model not in INFOS:
        raise BadValue("videos.model", model, nearest(model, INFOS))
    return INFOS[model]


def load_videos(recipe: ServeRecipe) -> Videos:
    """Load what draws.

    Raises:
        BadInput: There is no such model, or it, or its base, cannot be read.
    """
    model, device = recipe.videos.model, recipe.videos.device
    if not model.startswith("random:"):
        drawing: Videos = _exports().ExportVideos(_exports().found(recipe), device)
        return drawing
    info = video_info(recipe)
    module, _, name = _MAKERS[model].partition(":")
    make: Callable[..., Any] = getattr(import_module(module), name)
    made: Videos = make(info, device)
    return made


def _exports() -> Any:  # noqa: ANN401 - a module
    """Import what draws with trained models: it brings diffusers."""
    return import_module("serving.video_exports")
