"""Prompts to the states that CogVideoX reads: T5's encoder."""

import json
import threading
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoTokenizer, ByT5Tokenizer, T5Config, T5EncoderModel

from infra.errors import BadWeights
from infra.weights import locate
from training.nets.references import (
    Settings,
    model_folder,
    preset,
    read_transformer,
    seeded,
    split_reference,
)

COGVIDEOX_TOKENS = 226
"""Of every prompt, as CogVideoX was trained; arXiv:2408.06072."""

_TINY: Settings = {
    "tokens": 16, "vocab_size": 384, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2,
    "num_heads": 4,
}  # fmt: skip
_XXL: Settings = {
    "tokens": COGVIDEOX_TOKENS, "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240,
    "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu",
}  # fmt: skip
T5S: dict[str, Settings] = {
    "tiny-cogvideox": _TINY,
    "tiny-cogvideox-i2v": _TINY,
    "cogvideox-2b": _XXL,
    "cogvideox-5b": _XXL,
    "cogvideox-5b-i2v": _XXL,
}
"""The text encoder of each base of ``training.nets.video_presets``."""


class T5Text:
    """The text side of CogVideoX; the same answers as ``training.nets.text.TextEncoder``.

    Prompts are filled with zeros up to ``tokens``; what they are filled with is encoded too, and
    read by the model, as CogVideoX was trained: it takes no mask.

    Attributes:
        width: Of the states: 4096 for T5-XXL.
        tokens: Of every prompt, filled or cut.
        pooled_dim: 0: T5 pools nothing.
    """

    pooled_dim = 0

    def __init__(self, tokenizer: Any, model: Any, tokens: int) -> None:  # noqa: ANN401 - untyped
        self._tokenizer, self._model, self.tokens = tokenizer, model, tokens
        self.width = int(model.config.d_model)
        # How to fill and cut is state of a fast tokenizer.
        self._turn = threading.Lock()

    @torch.inference_mode()
    def encode(self, prompts: list[str]) -> tuple[Float[Tensor, "B tokens width"], None]:
        """Encode prompts, each cut to ``tokens``; ask ``overlong`` which lost words."""
        with self._turn:
            told = self._tokenizer(
                prompts, padding="max_length", truncation=True, max_length=self.tokens,
                return_tensors="pt",
            )  # fmt: skip
        states = self._model(told["input_ids"].to(self._model.device)).last_hidden_state
        return states, None

    def overlong(self, prompts: list[str]) -> list[bool]:
        """Say of each prompt whether ``encode`` cuts words off its end."""
        with self._turn:
            told = self._tokenizer(prompts, verbose=False)["input_ids"]
        return [len(ids) > self.tokens for ids in told]


def is_t5(reference: str) -> bool:
    """Tell whether the text side of a reference is T5's."""
    scheme, name = split_reference(reference)
    if scheme == "random":
        return name in T5S
    path = locate(reference) / "text_encoder/config.json"
    return path.is_file() and json.loads(path.read_text()).get("model_type") == "t5"


def load_t5(
    reference: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0
) -> T5Text:
    """Load the text side of a pipeline of CogVideoX; see ``load_text_encoder``.

    The tokenizer of ``random:`` has one token per byte, ByT5's, and needs no files.

    Raises:
        BadWeights: The folder holds no T5 in safetensors with its tokenizer.
    """
    if split_reference(reference)[0] == "random":
        settings = dict(preset(T5S, reference))
        tokens = int(settings.pop("tokens"))
        kind: Any = T5EncoderModel
        model = seeded(lambda: kind(T5Config(**settings)), seed)
        tokenizer: Any = ByT5Tokenizer()
    else:
        home = locate(reference)
        model = read_transformer(T5EncoderModel, model_folder(reference, "text_encoder"))
        words = home / "tokenizer"
        if not any((words / name).is_file() for name in ("tokenizer.json", "spiece.model")):
            raise BadWeights(
                str(words), "holds no vocabulary", "Copy the pipeline's tokenizer folder too."
            )
        tokenizer = AutoTokenizer.from_pretrained(words, local_files_only=True)
        tokens = _tokens(home)
    model.eval().requires_grad_(False).to(device=device, dtype=dtype)
    return T5Text(tokenizer, model, tokens)


def _tokens(home: Path) -> int:
    """Return how many tokens the transformer beside it was trained with."""
    path = home / "transformer/config.json"
    told = json.loads(path.read_text()) if path.is_file() else {}
    return int(told.get("max_text_seq_length", COGVIDEOX_TOKENS))
