"""A prompt in which one word is a person: Arc2Face's text side.

Shapes: B samples, D identity, T tokens, E the width of their embeddings.
"""

from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from transformers import CLIPTextModel

from training.exports import read_tensors, save_tensors
from training.nets.references import read_transformer
from training.nets.text import load_clip_text

BEFORE, PROMPT = "photo of a", "photo of a id person"
"""The word after BEFORE becomes the person."""
PROMPT_FILE = "prompt.safetensors"
WEIGHTS_FILE = "model.safetensors"
_PREFIX = "text_model."
"""What weights of CLIP are called by whoever reads them; newer transformers write them without."""

_ASKED: ContextVar[tuple[Tensor, Tensor] | None] = ContextVar("_ASKED", default=None)
"""The vectors of the call that is running, and which samples have them: each thread's own."""


class IdentityPrompt(nn.Module):
    """CLIP reads "photo of a id person", with a vector in place of the embedding of "id".

    The vector fills the first places of the embedding, zeros the others. Where CLIP's vocabulary
    was not learnt (``random:``) the word is two tokens, of which the first is replaced.

    References:
        Papantoniou et al., "Arc2Face: A Foundation Model for ID-Consistent Human Faces",
        arXiv:2403.11641; ``project_face_embs`` of its code.
    """

    asked: Int64[Tensor, " T"]
    empty: Int64[Tensor, " T"]

    def __init__(
        self,
        model: CLIPTextModel,
        asked: Int64[Tensor, " T"],
        empty: Int64[Tensor, " T"],
        place: int,
    ) -> None:
        """Take a model, and its tokens of the prompt and of the empty one.

        Args:
            model: To be trained.
            asked: The prompt.
            empty: The empty prompt.
            place: Of the token that is replaced.
        """
        super().__init__()
        self.model: Any = model  # transformers' forward has no types
        self.place = place
        self.register_buffer("asked", asked, persistent=False)
        self.register_buffer("empty", empty, persistent=False)
        # Once and for all: hooks that came and went with each call would be seen by other threads.
        _inner(self.model).embeddings.token_embedding.register_forward_hook(self._replace)

    @property
    def width(self) -> int:
        """Numbers of an embedding: as many as a vector may have, at most."""
        return int(self.model.config.hidden_size)

    def forward(
        self, vectors: Float[Tensor, "B D"], present: Bool[Tensor, " B"]
    ) -> Float[Tensor, "B T E"]:
        """Return the states of the prompt with each vector in it; of the empty one where absent."""
        running = _ASKED.set((vectors, present))
        try:
            ids = torch.where(present[:, None], self.asked, self.empty)
            states: Tensor = self.model(ids).last_hidden_state
        finally:
            _ASKED.reset(running)
        return states

    def save(self, folder: Path) -> None:
        """Write the model as transformers reads it, and beside it the tokens of its prompts."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.config.architectures = ["CLIPTextModel"]
        self.model.config.save_pretrained(folder)
        names = self._names()
        held = self.model.state_dict()
        save_tensors(folder / WEIGHTS_FILE, {names[ours]: weight for ours, weight in held.items()})
        prompts = {"asked": self.asked, "empty": self.empty, "place": torch.tensor(self.place)}
        save_tensors(folder / PROMPT_FILE, prompts)

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Return the weights that ``save`` wrote, by their names here.

        Raises:
            BadWeights: The file is missing, or something else.
        """
        ours = {theirs: f"model.{ours}" for ours, theirs in self._names().items()}
        held = read_tensors(folder / WEIGHTS_FILE)
        return {ours.get(theirs, theirs): weight for theirs, weight in held.items()}

    @staticmethod
    def load(folder: Path) -> "IdentityPrompt":
        """Make what ``save`` wrote.

        Raises:
            BadWeights: A file is missing, or something else.
        """
        told = read_tensors(folder / PROMPT_FILE)
        model = read_transformer(CLIPTextModel, folder)
        return IdentityPrompt(model, told["asked"], told["empty"], int(told["place"]))

    @staticmethod
    def of(reference: str) -> "IdentityPrompt":
        """Make it of a pipeline's text side, see ``load_clip_text``."""
        tokenizer, model = load_clip_text(reference)
        told: Any = tokenizer(
            [PROMPT, ""],
            padding="max_length",
            truncation=True,
            max_length=model.config.max_position_embeddings,
            return_tensors="pt",
        )["input_ids"]
        # The end mark stands where the word will.
        place = len(tokenizer(BEFORE)["input_ids"]) - 1
        return IdentityPrompt(model, told[0], told[1], place)

    def _names(self) -> dict[str, str]:
        """Return the published name of each weight of the model."""
        return {name: f"{_PREFIX}{name.removeprefix(_PREFIX)}" for name in self.model.state_dict()}

    def _replace(self, _: nn.Module, __: object, embedded: Tensor) -> Tensor:
        """Put the running call's vectors where the word is; leave other calls as they are."""
        asked = _ASKED.get()
        if asked is None:
            return embedded
        vectors, present = asked
        # Not torch's pad, which cuts a vector that is too long and says nothing.
        zeros = vectors.new_zeros(len(vectors), self.width - vectors.shape[1])
        padded = torch.cat([vectors, zeros], dim=1).to(embedded)
        here = torch.zeros_like(self.asked, dtype=torch.bool)
        here[self.place] = True
        swapped = present[:, None] & here
        return torch.where(swapped[:, :, None], padded[:, None], embedded)


def _inner(model: Any) -> Any:  # noqa: ANN401 - transformers has no types
    """Return the transformer, which some versions keep in a module of its own."""
    return getattr(model, "text_model", model)
