"""Prompts to the states that a diffusion model's cross-attention reads."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from infra.errors import BadWeights
from infra.weights import locate
from training.nets.clip_presets import TEXTS, Marks, byte_tokenizer
from training.nets.references import (
    Settings,
    model_folder,
    preset,
    read_transformer,
    seeded,
    split_reference,
)
from training.nets.t5 import T5Text, is_t5, load_t5


@dataclass(frozen=True)
class _Tower:
    """One text transformer and how its prompts are cut into tokens."""

    # transformers has no types, hence Any.
    tokenizer: Any
    model: Any
    # How to fill and cut is state of a fast tokenizer: another thread's call in between changes it.
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def encode(self, prompts: list[str], *, penultimate: bool) -> tuple[Tensor, Tensor | None]:
        """Return states and, of a model with a projection, the pooled vector."""
        with self._turn:
            ids = self.tokenizer(
                prompts,
                padding="max_length",
                truncation=True,
                max_length=self.tokens,
                return_tensors="pt",
            )["input_ids"]
        told = self.model(ids.to(self.model.device), output_hidden_states=penultimate)
        states = told.hidden_states[-2] if penultimate else told.last_hidden_state
        return states, getattr(told, "text_embeds", None)

    def lengths(self, prompts: list[str]) -> list[int]:
        """Count the tokens of whole prompts, both marks included."""
        with self._turn:
            told = self.tokenizer(prompts, verbose=False)["input_ids"]
        return [len(ids) for ids in told]

    @property
    def tokens(self) -> int:
        return int(self.model.config.max_position_embeddings)


class TextEncoder:
    """The text side of Stable Diffusion: one CLIP, or SDXL's two.

    One tower gives its last states after the final norm. Two give their penultimate states side by
    side, without the norm, and the second's projected vector at the end mark.

    Attributes:
        width: Of the states: 768 for SD 1.5, 2048 for SDXL.
        tokens: Of every prompt, filled or cut: 77.
        pooled_dim: Width of the pooled vector: 1280 for SDXL, 0 where there is none.

    References:
        Stable Diffusion (arXiv:2112.10752); SDXL (arXiv:2307.01952), section 2.1.
    """

    def __init__(self, towers: Sequence[_Tower]) -> None:
        self._towers = tuple(towers)
        last = self._towers[-1].model
        self.width = sum(int(tower.model.config.hidden_size) for tower in self._towers)
        self.tokens = self._towers[0].tokens
        self.pooled_dim = int(last.config.projection_dim) if len(self._towers) > 1 else 0

    @torch.inference_mode()
    def encode(
        self, prompts: list[str]
    ) -> tuple[Float[Tensor, "B tokens width"], Float[Tensor, "B dim"] | None]:
        """Encode prompts, each cut to ``tokens``; ask ``overlong`` which lost words.

        Returns:
            States and the pooled vector (None without ``pooled_dim``), on the model's device and
            in its precision.
        """
        two = len(self._towers) > 1
        told = [tower.encode(prompts, penultimate=two) for tower in self._towers]
        return torch.cat([states for states, _ in told], dim=-1), told[-1][1] if two else None

    def overlong(self, prompts: list[str]) -> list[bool]:
        """Say of each prompt whether ``encode`` cuts words off its end."""
        counts = [tower.lengths(prompts) for tower in self._towers]
        return [max(lengths) > self.tokens for lengths in zip(*counts, strict=True)]


AnyText = TextEncoder | T5Text
"""The text side of any base."""


def load_text_encoder(
    reference: str,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> AnyText:
    """Load the text side of a pipeline.

    Args:
        reference: ``random:tiny-sd``, ``random:tiny-sdxl``, ``random:sd15``, ``random:sdxl``, or
            ``file:<folder>`` of a diffusers pipeline. One of CogVideoX, or its ``random:`` name,
            has T5; AnimateDiff's are Stable Diffusion's.
        device: Where it runs.
        dtype: Precision of its weights and states.
        seed: What the weights of ``random:`` are drawn from.

    Raises:
        BadValue: No preset has that name, or the reference has no known scheme.
        BadWeights: The folder holds no text encoder in safetensors with its tokenizer.
    """
    if is_t5(reference):
        return load_t5(reference, device=device, dtype=dtype, seed=seed)
    towers = _load(reference, seed)
    for tower in towers:
        tower.model.eval().requires_grad_(False).to(device=device, dtype=dtype)
    return TextEncoder(towers)


def load_clip_text(reference: str, seed: int = 0) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """Load the first text transformer of a pipeline and its tokenizer, to be trained.

    See ``load_text_encoder``: with the same reference and seed it has the same weights.
    """
    first = _load(reference, seed)[0]
    return first.tokenizer, first.model


def _load(reference: str, seed: int) -> list[_Tower]:
    scheme, _ = split_reference(reference)
    if scheme == "random":
        return seeded(lambda: _random(preset(TEXTS, reference)), seed)
    return _read(reference)


def _random(towers: tuple[Settings, ...]) -> list[_Tower]:
    """Make the towers of a preset; the second has a projection and OpenCLIP's filling."""
    made: list[_Tower] = []
    for number, settings in enumerate(towers):
        kind: Any = CLIPTextModelWithProjection if number else CLIPTextModel
        marks = Marks.of(settings["vocab_size"])
        config = CLIPTextConfig(
            **settings,
            bos_token_id=marks.begin,
            eos_token_id=marks.end,
            pad_token_id=0 if number else marks.end,
        )
        tokenizer = byte_tokenizer(settings["vocab_size"], fills_with_zero=bool(number))
        made.append(_Tower(tokenizer, kind(config)))
    return made


def _read(reference: str) -> list[_Tower]:
    """Read the towers of a pipeline's folder."""
    home = locate(reference)
    if not (home / "text_encoder").is_dir():
        raise BadWeights(
            str(home),
            "is no pipeline with a text_encoder in it",
            "Give a diffusers folder that holds text_encoder/ and tokenizer/.",
        )
    made = [_tower(reference, "text_encoder", "tokenizer", CLIPTextModel)]
    if (home / "text_encoder_2").is_dir():
        second = _tower(reference, "text_encoder_2", "tokenizer_2", CLIPTextModelWithProjection)
        made.append(second)
    return made


def _tower(reference: str, model: str, tokenizer: str, kind: Any) -> _Tower:  # noqa: ANN401 - untyped
    folder, words = model_folder(reference, model), locate(reference) / tokenizer
    held = CLIPTextConfig.get_config_dict(folder)[0]
    if held.get("model_type") != "clip_text_model":
        raise BadWeights(
            str(folder),
            f"holds a {held.get('model_type')!r}, not a CLIP text model",
            "Give a pipeline of the Stable Diffusion 1.5 or SDXL family.",
        )
    # Without files transformers would make an empty vocabulary and say nothing.
    if not any((words / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise BadWeights(
            str(words), "holds no vocabulary", "Copy the pipeline's tokenizer folders too."
        )
    return _Tower(
        CLIPTokenizer.from_pretrained(words, local_files_only=True), read_transformer(kind, folder)
    )
