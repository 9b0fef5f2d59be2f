"""What methods share that learn only what one word means to the text encoder.

Shapes: B samples, C channels, H rows, W columns of latents; T tokens of a prompt of width E; V
variants of the word, of K tokens each.
"""

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from infra.errors import BadValue
from training.features import Features
from training.method import Batch
from training.methods.faceid_conditions import Given
from training.methods.on_subject import SubjectOnBase
from training.nets.attention_maps import Told
from training.nets.subject_words import SubjectWords
from training.nets.tuning import tune
from training.noise import STEPS
from training.objectives.step import Gives
from training.settings import TrainRecipe


class SubjectWordsOnBase(SubjectOnBase):
    """A frozen base and a frozen text encoder; only a placeholder's embeddings are learnt.

    Prompts of one's own are read by ``told``: its states say each prompt first with the class'
    word, then with every variant of the subject's, one after another along the tokens.
    ``Sampling.scale`` leads from the first to the other. States of T tokens, as any text encoder
    makes them, name nobody: they are drawn as they are.
    """

    asked: Int64[Tensor, " T"]
    """The subject's prompt."""

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        """Make it.

        Raises:
            BadValue: The base reads text by two encoders, or the vocabulary has the placeholder.
        """
        super().__init__(recipe, features, folder)
        method = recipe.method
        if self.pooled_dim:
            raise BadValue(
                "base.weights",
                recipe.base.weights,
                f"{method.kind} learns a word of one text encoder; give a base that has one, such "
                "as Stable Diffusion 1.5.",
            )
        self.words = SubjectWords(features.text_encoder, method.subject_word, method.tokens)
        self.unet.requires_grad_(False)
        tune(self.unet, recipe.scale)
        self.register_buffer("asked", self.words.ids([self.prompt])[0], persistent=False)

    @abstractmethod
    def embeddings(self) -> Float[Tensor, "V K E"]:
        """Return what the word means, in each variant."""

    def _variant(self, t: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
        """Say which variant counts at a time; here there is one."""
        return torch.zeros_like(t)

    @property
    def prompt(self) -> str:
        """The prompt that the subject is learnt with."""
        return self.recipe.method.prompt.format(self.recipe.method.subject_word)

    @torch.no_grad()
    def told(self, prompts: Sequence[str]) -> Float[Tensor, "B tokens E"]:
        """Read prompts for ``Condition.text``; the placeholder in them is the subject."""
        method, meanings = self.recipe.method, self.embeddings()
        plain = [prompt.replace(method.subject_word, method.class_word) for prompt in prompts]
        nobody, somebody = self.words.ids(plain), self.words.ids(prompts)
        asked = [(nobody, meanings[0]), *((somebody, meaning) for meaning in meanings)]
        count = len(prompts)
        readings = [self.words(ids, meaning.expand(count, -1, -1)) for ids, meaning in asked]
        return torch.cat(readings, dim=1)

    def strength(self, scale: float) -> AbstractContextManager[None]:  # noqa: ARG002 - see ``told``
        """Change nothing: the base is as it was, and what was learnt is in the text."""
        return nullcontext()

    def eject(self) -> nn.Module:
        """Return the base, into which nothing was put; the method is of no use after."""
        unet: nn.Module = self.unet.requires_grad_(True)
        return unet

    def _gives(self) -> Gives:
        return Gives(ask=True, attention=True)

    def _attended(self, told: Told, given: Given) -> Float[Tensor, "B N objects"]:  # noqa: ARG002
        """Say how much of each pixel's attention the subject's word has."""
        shares = told.of_text()
        return shares[..., self.words.is_placeholder(self.asked)].sum(dim=-1, keepdim=True)

    def _words(self, batch: Batch) -> dict[str, Tensor]:
        t = (batch["time"] * STEPS).long().clamp(0, STEPS - 1)
        ids = self.asked.expand(len(t), -1)
        text = self._read(ids, t)
        if "is_prior" in batch:
            plain = self.class_text.repeat(text.shape[1] // len(self.class_text), 1)
            text = torch.where(batch["is_prior"][:, None, None], plain, text)
        return {"text": text, "pooled": text.new_zeros(len(t), 0)}

    def _read(
        self, ids: Int64[Tensor, "B T"], t: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B tokens E"]:
        """Read prompts as they are to be understood at each time."""
        states: Tensor = self.words(ids, self.embeddings()[self._variant(t)])
        return states

    def _own_text(self, count: int) -> Float[Tensor, "B tokens E"]:
        return self.told([self.prompt]).expand(count, -1, -1)

    def _spoken(
        self, text: Float[Tensor, "B tokens E"], t: Int64[Tensor, ""], scale: float
    ) -> Float[Tensor, "B T E"]:
        length = self.words.length
        if text.shape[1] == length:
            return text
        readings = text.view(len(text), -1, length, text.shape[2])
        return torch.lerp(readings[:, 0], readings[:, 1 + int(self._variant(t[None]))], scale)
