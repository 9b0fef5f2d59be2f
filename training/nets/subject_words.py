"""Prompts in which a placeholder is a person: learnt embeddings inside a frozen CLIP.

Shapes: B prompts, V variants of the embeddings, K tokens, T tokens of a prompt, E their width.
"""

import threading
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from infra.errors import BadValue
from training.nets.text import load_clip_text

_ASKED: ContextVar[tuple[Tensor, Tensor] | None] = ContextVar("_ASKED", default=None)
"""Of the call that is running: which of the placeholder's tokens is where (-1: none), and their
embeddings. Each thread has its own."""


class SubjectWords(nn.Module):
    """Read prompts with a placeholder, which is as many tokens as are learnt.

    Its tokens are named as ``load_textual_inversion`` of diffusers names them (``<person>``,
    ``<person>_1``, ...), so that a prompt is cut into the same ids there and here. The
    vocabulary's own embeddings are never written to.

    References:
        Gal et al., "An Image is Worth One Word" (textual inversion), arXiv:2208.01618.
    """

    def __init__(self, reference: str, placeholder: str, tokens: int) -> None:
        """Load CLIP, and teach its tokenizer the placeholder.

        Raises:
            BadValue: The vocabulary knows the placeholder as a word of its own.
        """
        super().__init__()
        tokenizer, model = load_clip_text(reference)
        self.placeholder, self.tokens = placeholder, tokens
        self.names = [placeholder, *(f"{placeholder}_{i}" for i in range(1, tokens))]
        if known := [name for name in self.names if name in tokenizer.get_vocab()]:
            raise BadValue(
                "method.subject_word",
                placeholder,
                f"the text encoder's vocabulary has {known[0]!r}; give a placeholder of your own, "
                "such as '<person>'.",
            )
        tokenizer.add_tokens(self.names)
        self._first = int(tokenizer.convert_tokens_to_ids(placeholder))
        self._tokenizer, self._turn = tokenizer, threading.Lock()
        self.model: Any = model.eval().requires_grad_(False)  # transformers' forward has no types
        # Once and for all: hooks that came and went with each call would be seen by other threads.
        self._table.register_forward_hook(self._replace)

    @property
    def width(self) -> int:
        """Numbers of an embedding, and of a state."""
        return int(self.model.config.hidden_size)

    @property
    def length(self) -> int:
        """Tokens of every prompt, filled or cut."""
        return int(self.model.config.max_position_embeddings)

    @property
    def _table(self) -> Any:  # noqa: ANN401 - no types
        """Return the vocabulary's embeddings; some versions keep the transformer in a module."""
        return getattr(self.model, "text_model", self.model).embeddings.token_embedding

    def ids(self, prompts: Sequence[str]) -> Int64[Tensor, "B T"]:
        """Cut prompts into ids; those from the vocabulary's size on are the placeholder's."""
        spelt = [prompt.replace(self.placeholder, " ".join(self.names)) for prompt in prompts]
        with self._turn:
            told: Any = self._tokenizer(
                spelt, padding="max_length", truncation=True, max_length=self.length,
                return_tensors="pt",
            )["input_ids"]  # fmt: skip
        ids: Tensor = told
        return ids

    def is_placeholder(self, ids: Int64[Tensor, "*B T"]) -> Bool[Tensor, "*B T"]:
        """Say which ids are the placeholder's."""
        return (ids >= self._first) & (ids < self._first + self.tokens)

    def overlong(self, prompts: Sequence[str]) -> list[bool]:
        """Say of each prompt whether words are cut off its end."""
        spelt = [prompt.replace(self.placeholder, " ".join(self.names)) for prompt in prompts]
        with self._turn:
            told = self._tokenizer(spelt, verbose=False)["input_ids"]
        return [len(ids) > self.length for ids in told]

    def count(self, words: str) -> int:
        """Count the tokens of some words of a prompt, without its marks."""
        with self._turn:
            return len(self._tokenizer(words, add_special_tokens=False)["input_ids"])

    def embedded(self, words: Sequence[str]) -> Float[Tensor, "words E"]:
        """Return the mean embedding of each word's tokens in the vocabulary."""
        with self._turn:
            told = self._tokenizer(list(words), add_special_tokens=False)["input_ids"]
        table = self._table.weight
        return torch.stack([table[ids].mean(dim=0) for ids in told]).detach().clone()

    def forward(
        self, ids: Int64[Tensor, "B T"], embeddings: Float[Tensor, "B K E"]
    ) -> Float[Tensor, "B T E"]:
        """Return the states of prompts, the placeholder's tokens being these embeddings."""
        ids = ids.to(embeddings.device)
        mine = self.is_placeholder(ids)
        running = _ASKED.set((torch.where(mine, ids - self._first, -1), embeddings))
        try:
            states: Tensor = self.model(torch.where(mine, 0, ids)).last_hidden_state
        finally:
            _ASKED.reset(running)
        return states

    def _replace(self, _: nn.Module, __: object, embedded: Tensor) -> Tensor:
        """Put the running call's embeddings where the placeholder is; leave other calls alone."""
        asked = _ASKED.get()
        if asked is None:
            return embedded
        which, embeddings = asked
        rows = torch.arange(len(which), device=which.device)[:, None]
        mine = embeddings.to(embedded)[rows, which.clamp(min=0)]
        return torch.where((which >= 0)[:, :, None], mine, embedded)
