"""SeFi-IDE: one word with a meaning for each stage of the drawing, that looks where faces are.

Shapes: B samples; T tokens of a prompt of width E; V variants of the word, of K tokens each; N
pixels of a layer.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from training.exports import read_matching, read_tensors, save_tensors, write_export
from training.features import Features
from training.method import Batch
from training.methods.faceid_conditions import Given
from training.methods.on_subject_words import SubjectWordsOnBase
from training.nets.attention_maps import Told, Watched, cross_attention, watched
from training.nets.key_value_text import texts_apart, twice
from training.nets.published import renamed
from training.noise import STEPS, Noised
from training.settings import TrainRecipe

STAGES = 5
KINDS = ("key", "value")


class SefiIDE(SubjectWordsOnBase):
    """Train a word's embeddings: for each fifth of the schedule one for keys and one for values.

    Cross-attention makes its keys of a prompt with the one, its values of the same prompt with the
    other. Beside the noise's MSE, ``method.face_attention`` times the face-wise attention loss:
    the word's cross-attention must be what the class' word has in the frozen base on the same
    noisy picture, so that it learns the face and not the layout. The word begins as the class'.

    Each meaning is exported as a word of its own for ``load_textual_inversion``; who draws with
    them elsewhere changes words with the stage.

    References:
        Li et al., "SeFi-IDE: Semantic-Fidelity Identity Embedding for Personalized Diffusion-Based
        Generation", arXiv:2402.00631. It compares the attention of all tokens of two prompts of
        one length; here the word's own, summed over its tokens, which may be of any number.
    """

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        super().__init__(recipe, features, folder)
        method = recipe.method
        self._plain = texts_apart(self.unet)
        self.conditions.empty_text = twice(self.conditions.empty_text[None])[0]
        first = self.words.embedded([method.class_word])[0]
        # A copy each: they are to part.
        self.meanings = nn.Parameter(
            first.expand(STAGES, len(KINDS), method.tokens, -1).contiguous().clone()
        )
        self._seen: Watched | None = None
        before, _, _ = method.prompt.partition("{}")
        start = 1 + self.words.count(before)
        self.class_places = slice(start, start + self.words.count(method.class_word))

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name the word's embeddings."""
        return {"meanings": self.meanings}

    def embeddings(self) -> Float[Tensor, "V K E"]:
        """Return the word's meanings: of keys and of values, for each stage, the noisy one last."""
        return self.meanings.flatten(0, 1)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms; see ``Batch`` for what is read."""
        losses = super().forward(batch)
        seen, self._seen = self._seen, None
        if seen is None:
            return losses
        term = self._face_wise(batch, seen)
        whole = losses["loss"] + self.recipe.method.face_attention * term
        return losses | {"loss": whole, "face_attention": term.detach()}

    def eject(self) -> nn.Module:
        """Return the base as it was; the method is of no use after."""
        self.unet.set_attn_processor(dict(self._plain))
        return super().eject()

    def save(self, folder: Path) -> None:
        """Write an export: each meaning as a word for ``load_textual_inversion``."""
        folder.mkdir(parents=True, exist_ok=True)
        for file, (at, name) in self._files().items():
            save_tensors(folder / file, {name: self.embeddings()[at]})
        self.save_prompts(folder)
        write_export(
            folder, self.recipe, self.features, self.codec, self.conditions.held, self.base
        )

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Return the weights of an export; see ``Method.read``."""
        read_matching(folder, self.recipe, self.features, self.base)
        held = torch.empty_like(self.embeddings(), device="cpu")
        for file, (at, name) in self._files().items():
            path = folder / file
            held[at] = renamed(read_tensors(path), {name: held[at]}, {name: name}, path)[name]
        return {"meanings": held.view_as(self.meanings)}

    def _files(self) -> dict[str, tuple[int, str]]:
        """Name the files of an export, and in each which meaning it has and what that is called."""
        word, each = self.recipe.method.subject_word, range(STAGES * len(KINDS))
        names = [f"{KINDS[at % len(KINDS)]}-{at // len(KINDS)}" for at in each]
        return {f"word-{names[at]}.safetensors": (at, f"{word}-{names[at]}") for at in each}

    def _variant(self, t: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
        return t * STAGES // STEPS

    def _read(
        self, ids: Int64[Tensor, "B T"], t: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B tokens E"]:
        now = self.meanings[self._variant(t)]
        return torch.cat([self.words(ids, now[:, kind]) for kind in range(len(KINDS))], dim=1)

    def _spoken(
        self, text: Float[Tensor, "B tokens E"], t: Int64[Tensor, ""], scale: float
    ) -> Float[Tensor, "B both E"]:
        readings = text.view(len(text), -1, self.words.length, text.shape[2])
        if readings.shape[1] <= len(KINDS):
            return text if readings.shape[1] == len(KINDS) else twice(text)
        at = 1 + len(KINDS) * int(self._variant(t[None]))
        anybody = twice(readings[:, 0])
        return torch.lerp(anybody, readings[:, at : at + len(KINDS)].flatten(1, 2), scale)

    def _attended(self, told: Told, given: Given) -> Float[Tensor, "B N objects"]:
        return super()._attended(_keys(told), given)

    def _layers(self) -> list[str]:
        wanted = super()._layers()
        # Without gradients nobody descends, and validation asks for the MSE alone.
        if not (self.recipe.method.face_attention and torch.is_grad_enabled()):
            return wanted
        return wanted or cross_attention(self.unet, coarse=True)

    def _shown(self, batch: Batch, noised: Noised, given: Given, seen: Watched) -> dict[str, Any]:
        weighs = self.recipe.method.face_attention and torch.is_grad_enabled()
        self._seen = seen if weighs else None
        return super()._shown(batch, noised, given, seen)

    def _face_wise(self, batch: Batch, seen: Watched) -> Float[Tensor, ""]:
        """Compare the word's attention with the class word's in the base, on the same latents."""
        noised = self.schedule.noised(batch["latents"], batch["noise"], batch["time"])
        text = twice(self.class_text.expand(len(noised.t), -1, -1))
        given = replace(self._told(batch), text=text)
        with torch.no_grad(), watched(self.unet, seen.told) as base:
            self._predict(noised.z_t, noised.t, given, batch.get("size"))
            theirs = [_keys(told).of_text()[..., self.class_places].sum(2, keepdim=True)
                      for told in base.told.values()]  # fmt: skip
        ours = [self._attended(told, given) for told in seen.told.values()]
        apart = torch.stack(
            [(a - b).square().mean((1, 2)) for a, b in zip(ours, theirs, strict=True)]
        ).mean(dim=0)
        if "is_prior" in batch:
            apart = apart * ~batch["is_prior"]
        return apart.mean()


def _keys(told: Told) -> Told:
    """Look at the text that keys are made of."""
    assert told.text is not None
    return replace(told, text=told.text.chunk(2, dim=1)[0])
