"""Infinite-ID: identity learnt with text turned off, and put together with it when drawing.

Shapes: B samples, C channels, H rows, W columns of latents.
"""

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from training.exports import read_matching, read_tensors, save_tensors, write_export
from training.features import Features
from training.method import AS_USUAL, Callback, Condition, Random, Sampling
from training.methods.faceid_conditions import Given, joined
from training.methods.on_base import AdapterOnBase
from training.nets.face_states import check_image
from training.nets.identity_processor import OUTSIDE, Parts
from training.nets.infinite_id import FaceTokens, InfiniteAdapter
from training.nets.merging import Merge
from training.nets.tuning import tune
from training.objectives.step import Gives
from training.settings import TrainRecipe

FILE = "infinite-id.safetensors"


class InfiniteID(AdapterOnBase):
    """Train the mappers and the keys and values of ``training.nets.infinite_id`` on a frozen base.

    In training the network is told who it is and nothing else: cross-attention asks identity's
    tokens in place of the text, which is the empty prompt where SDXL pools it. So a caption can
    explain nothing of a face away. Text comes back in drawing, in two streams on one noise: the
    text's asks both text and identity, identity's is as it was in training, and the text's
    self-attention also sees identity's. ``Sampling.adain_mean`` shifts what comes from identity to
    the text's mean, as published for styles. Both streams are drawn twice, for guidance too.

    ``Sampling.scale`` is of all that identity adds, mixing included; 0 draws the base's own.
    Text is never dropped, for it is never told: shares of dropped text drop nothing.

    References:
        Wu et al., "Infinite-ID: Identity-preserved Personalization via ID-semantics Decoupling
        Paradigm", arXiv:2403.11781: SDXL, 64 samples a step, AdamW 1e-4, weight decay 0.01, 30
        steps of DDIM with guidance 5. Its code was not published: the mappers' form, the number of
        the vector's tokens (``method.tokens``), shares of dropped identity and what guidance leads
        away from (both streams of nobody) are ours.
    """

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        check_image(features, recipe.method.kind)
        super().__init__(recipe, features, folder)
        self.adapter = InfiniteAdapter(self.unet, recipe.base.weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.image_proj = FaceTokens(
                features, recipe.method.tokens, self.unet.config.cross_attention_dim
            )
        self.parts = Parts(self.adapter, "ip_adapter", OUTSIDE, image_proj=self.image_proj)
        tune(self.unet, recipe.scale)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name the mappers, and the keys and values."""
        return self.parts.weights()

    def strength(self, scale: float) -> AbstractContextManager[None]:
        """Use this much of identity while the context lasts."""
        return self.adapter.strength(scale)

    def eject(self) -> nn.Module:
        """Take the adapter out and return the base as it was; the method is of no use after."""
        return self.adapter.eject()

    def generate(
        self,
        condition: Condition,
        rng: Random,
        sampling: Sampling = AS_USUAL,
        *,
        callback: Callback | None = None,
    ) -> Float[Tensor, "samples 3 height width"]:
        """Draw one picture per row of ``condition``, both streams together.

        See ``Method.generate``.
        """
        if sampling.scale == 0:
            return super().generate(condition, rng, sampling, callback=callback)
        with self.adapter.mixed(Merge(adain_mean=sampling.adain_mean), sampling.scale):
            return super().generate(condition, rng, sampling, callback=callback)

    def save(self, folder: Path) -> None:
        """Write an export: ``infinite-id.safetensors`` and what surrounds it.

        Keys and values have IP-Adapter's names, mappers ``image_proj.``; no other layout exists.
        """
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / FILE, self.parts.publish())
        held = self.conditions.held
        write_export(folder, self.recipe, self.features, self.codec, held, self.base)

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Return the weights of an export; see ``Method.read``."""
        read_matching(folder, self.recipe, self.features, self.base)
        return self.parts.adopt(read_tensors(folder / FILE), folder / FILE)

    def _gives(self) -> Gives:
        """Say what losses may look at.

        Text is never told, so it can neither be left out nor take attention away from identity,
        whose tokens have all of it, everywhere.
        """
        width = self.unet.config.cross_attention_dim
        return replace(super()._gives(), more=False, attention=False, embed=width)

    def _embed(self, given: Given) -> Float[Tensor, "B tokens E"]:
        tokens: Tensor = self.image_proj(given.faces)
        return tokens.float()

    def _predict(
        self,
        z_t: Float[Tensor, "B C H W"],
        t: Int64[Tensor, " B"],
        given: Given,
        size: Float[Tensor, "B 6"] | None,
        control: float = 1.0,  # noqa: ARG002 - of use to others
    ) -> Float[Tensor, "B C H W"]:
        """Ask the UNet: identity alone, both streams, or the base."""
        if self.adapter.scale == 0:
            return self._ask(z_t, t, given, size)
        nobody = torch.zeros(len(z_t), dtype=torch.bool, device=z_t.device)
        wordless = self.conditions.without(given, nobody, ~nobody)
        if not self.adapter.mixes:
            return self._ask(z_t, t, wordless, size)
        both = joined(given, wordless)
        sizes = None if size is None else torch.cat([size, size])
        return self._ask(torch.cat([z_t, z_t]), torch.cat([t, t]), both, sizes).chunk(2)[0]

    def _ask(
        self, z_t: Tensor, t: Tensor, given: Given, size: Tensor | None
    ) -> Float[Tensor, "rows C H W"]:
        dtype = self.unet.dtype
        tokens = self.image_proj(given.faces)[:, None]
        added: dict[str, Any] = self._micro(z_t, given, size, dtype)
        pred: Tensor = self.unet(
            z_t.to(dtype),
            t,
            (given.text.to(dtype), [tokens.to(dtype)]),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return pred.float()
