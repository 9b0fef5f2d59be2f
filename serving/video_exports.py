"""Trained methods that draw videos, as ``/v1/videos`` asks them: one step at a time.

Shapes: C channels, T frames, H rows, W columns of latents.
"""

import threading
from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from infra.errors import BadValue
from serving.errors import Refusal
from serving.recipes import ServeRecipe
from serving.types import RGB
from serving.videos import Frames, State, VideoDraw, VideoInfo
from serving.weights import Model, Shelf
from training.build import load_export, method_class
from training.method import Condition, Sampling
from training.methods.on_video import OnVideo
from training.nets.text import load_text_encoder
from training.nets.vision import load_image_encoder
from training.sampler import Steps

OF_FACE = ("image", "face_states", "face_pooled", "reference_latents")
"""What a method is told of how the reference face looks."""
_STOPS = 8
"""Sides of AnimateDiff's latents are multiples of this: its network halves them three times."""


def found(recipe: ServeRecipe) -> Model:
    """Return the trained model that a deployment names for videos, its files checked.

    Raises:
        BadInput: It is not in the registry, not whole, or draws no videos.
    """
    shelf = Shelf(replace(recipe, model=recipe.videos.model))
    try:
        model = shelf.resolve("")
    finally:
        shelf.close()
    if not model.features.frames:
        cure = f"{model.name} draws pictures; give it as the model."
        raise BadValue("videos.model", recipe.videos.model, cure)
    return model


def info_of(model: Model) -> VideoInfo:
    """Say what a trained model draws, without its base."""
    features = model.features
    _, rows, columns = features.latent_shape
    each_px = round(features.image_px / sqrt(rows * columns))
    causal = features.frames != features.clip_frames
    return VideoInfo(
        model=model.name,
        takes_text=model.takes_text,
        takes_identity=model.takes_identity,
        embedder=features.embedder,
        sides_px=(columns * each_px, rows * each_px),
        multiple_px=each_px * (2 if causal else _STOPS),
        frames=features.clip_frames,
        max_frames=features.clip_frames,
        fps=max(1, round(features.fps)),
        looks_at_face=model.takes_identity and bool(_looks(model)),
        # A causal codec makes other numbers of frames than it is asked for.
        fixed_frames=causal,
    )


def _looks(model: Model) -> list[str]:
    kind: Any = method_class(model.recipe.method.kind)
    return [name for name in kind.takes if name in OF_FACE]


class ExportVideos:
    """See ``serving.videos.Videos``."""

    def __init__(self, model: Model, device: str) -> None:
        """Load the export, its base and the encoders that feed it.

        Raises:
            BadInput: One of them cannot be read.
        """
        self._info, self._device = info_of(model), torch.device(device)
        method = load_export(model.folder)
        assert isinstance(method, OnVideo)
        self._method = method.eval().requires_grad_(False)
        method.to(self._device)
        dtype = torch.float32
        if self._device.type == "cuda":
            dtype = torch.bfloat16
            nn.Module.to(method.network, dtype)  # diffusers' own warns of layers to keep
            method.codec.to(dtype)  # type: ignore[attr-defined]
        features = model.features
        self._looks, self._layers = _looks(model), features.face_states_shape[0]
        self._text = (
            load_text_encoder(features.text_encoder, device=device, dtype=dtype)
            if model.takes_text
            else None
        )
        self._image = self._encoder(features.image_encoder, "image")
        self._face = self._encoder(features.face_encoder, "face_states", "face_pooled")
        self._turn = threading.Lock()
        self._told: tuple[VideoDraw, Condition] | None = None

    @property
    def info(self) -> VideoInfo:
        """Say what is drawn."""
        return self._info

    def begin(self, ask: VideoDraw) -> State:
        """Return noise.

        Raises:
            Refusal: ``invalid_value``: the prompt is longer than what the model reads.
        """
        prompts = [ask.prompt, ask.negative_prompt]
        if self._text is not None and any(self._text.overlong(prompts)):
            words = f"prompt: {self._info.model} reads {self._text.tokens} tokens; give fewer."
            raise Refusal("invalid_value", words, {"field": "prompt"})
        rng = torch.Generator().manual_seed(ask.seed)  # on the CPU: the same on every device
        with self._turn:
            noise = self._method.first(self._condition(ask), rng, self._sampling(ask))
        return State(next_step=0, arrays={"latents": noise.cpu().numpy()})

    def step(self, ask: VideoDraw, state: State) -> State:
        """Take one step."""
        with self._turn:
            after, _ = self._taken(ask, state)
        return State(next_step=state.next_step + 1, arrays={"latents": after.cpu().numpy()})

    def preview(self, ask: VideoDraw, state: State) -> RGB:  # noqa: ARG002 - of the protocol
        """Decode the first frame, noise and all: it needs no other, whatever the codec."""
        with self._turn:
            preview: RGB = self._decoded(state.arrays["latents"][:, :, :1])[0]
        return preview

    def frames(self, ask: VideoDraw, state: State) -> Frames:  # noqa: ARG002 - of the protocol
        """Decode the latents."""
        with self._turn:
            return self._decoded(state.arrays["latents"])

    @torch.inference_mode()
    def _taken(self, ask: VideoDraw, state: State) -> tuple[Tensor, Tensor]:
        sampling, condition = self._sampling(ask), self._condition(ask)
        latents = self._tensor(state.arrays["latents"])
        method = self._method
        with method.strength(sampling.scale):
            predict = method.predicts(condition, sampling)
            return Steps(method.schedule, sampling).take(state.next_step, latents, predict)

    @torch.inference_mode()
    def _decoded(self, latents: np.ndarray) -> Frames:
        drawn = self._method.frames(self._tensor(latents))[0]
        pixels = (drawn * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        frames: Frames = np.ascontiguousarray(pixels.cpu().numpy())
        return frames

    def _sampling(self, ask: VideoDraw) -> Sampling:
        codec = self._method.features
        frames = codec.frames if self._info.fixed_frames else ask.frames
        return Sampling(
            steps=ask.steps,
            guidance=ask.guidance,
            scale=ask.identity_scale,
            size_px=(ask.height_px, ask.width_px),
            frames=frames,
        )

    @torch.inference_mode()
    def _condition(self, ask: VideoDraw) -> Condition:
        """Bring together what the video is to be of; kept for the next step of the same."""
        if self._told is not None and self._told[0] is ask:
            return self._told[1]
        features = self._method.features
        identity = torch.zeros(1, features.identity_dim)
        if ask.reference is not None:
            identity[0].copy_(torch.tensor(ask.reference.vector))
        parts: dict[str, Any] = {"identity": identity}
        if self._text is not None:
            parts["text"] = self._text.encode([ask.prompt])[0].float()
            parts["negative_text"] = self._text.encode([ask.negative_prompt])[0].float()
        more = dict(self._seen(ask))
        if "attributes_text" in self._method.takes and self._text is not None:
            more["attributes_text"] = parts["text"]
        image = more.pop("image", None)
        condition = Condition(**parts, image=image, more=more)
        self._told = ask, condition
        return condition

    def _seen(self, ask: VideoDraw) -> Mapping[str, Tensor]:
        """Encode the reference face as the method is told it; a grey one where there is none."""
        if not self._looks:
            return {}
        side, features = min(ask.width_px, ask.height_px), self._method.features
        face = torch.full((1, 3, side, side), 0.5)
        if ask.reference is not None and ask.reference.faces:
            crop = torch.tensor(ask.reference.faces[0]).permute(2, 0, 1)[None].float() / 255
            resized = nn.functional.interpolate(crop, (side, side), mode="bicubic", antialias=True)
            face = resized.clamp(0, 1)
        seen: dict[str, Tensor] = {}
        if self._image is not None:
            seen["image"] = self._image.encode(face).float()
        if self._face is not None:
            states, pooled = self._face.layers(face, features.face_states_shape[0])
            seen |= {"face_states": states.float(), "face_pooled": pooled.float()}
        if "reference_latents" in self._looks:
            across, down = ask.width_px - side, ask.height_px - side
            edges = (across // 2, across - across // 2, down // 2, down - down // 2)
            shown = nn.functional.pad(face, edges)[:, :, None].to(self._device)
            codec: Any = self._method.codec
            held = next(codec.parameters(), shown)
            seen["reference_latents"] = codec.encode(shown.to(held.dtype))[:, :, 0].float()
        return seen

    def _encoder(self, reference: str, *names: str) -> Any:  # noqa: ANN401 - an encoder or none
        """Load an image encoder, if the method is told what it says."""
        if not reference or not any(name in self._looks for name in names):
            return None
        return load_image_encoder(reference, device=str(self._device))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)
