"""DP-Adapter: identity where the face is, the prompt everywhere else.

Shapes: B samples, C channels, H rows, W columns of latents.
"""

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.embeddings import IPAdapterFaceIDImageProjection
from jaxtyping import Float, Int64
from torch import Tensor, nn

from training.exports import read_matching, read_tensors, save_tensors, write_export
from training.features import Features
from training.method import Batch
from training.methods.faceid_conditions import Given
from training.methods.on_base import AdapterOnBase
from training.nets.attention_maps import Told
from training.nets.dp_adapter import DUAL, DualAdapter, learning, shown_mask
from training.nets.face_states import together
from training.nets.identity_processor import Parts
from training.nets.tuning import tune
from training.objectives.step import Gives
from training.settings import TrainRecipe

FILE = "dp-adapter.safetensors"


class DPAdapter(AdapterOnBase):
    """Train the two pathways of ``training.nets.dp_adapter``, and what blends them.

    The visually sensitive region is the face's mask, the text-sensitive one the rest. Training
    blends each layer's pathways by the mask, so each learns its own region, and teaches the layer
    to tell the regions itself (``method.region_weight``), which it does in drawing.

    A dropped identity is the tokens of a vector of zeros. Several reference faces are shown
    together. ``Sampling.scale`` is of both pathways.

    References:
        Wang et al., "DP-Adapter: Dual-Pathway Adapter for Boosting Fidelity and Text Consistency in
        Customizable Human Image Generation", arXiv:2502.13999: an Identity-Enhancing Adapter, a
        Textual-Consistency Adapter, and fine-grained blending of their features. Its code was not
        published: the tokens (IP-Adapter-FaceID's), the text's own keys and values, and the one
        linear layer that blends are ours.
    """

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        super().__init__(recipe, features, folder)
        self.adapter = DualAdapter(self.unet, recipe.base.weights)
        make: Any = IPAdapterFaceIDImageProjection
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.image_proj: nn.Module = make(
                features.identity_dim,
                self.unet.config.cross_attention_dim,
                mult=2,
                num_tokens=recipe.method.tokens,
            )
        self.parts = Parts(self.adapter, "ip_adapter", DUAL, image_proj=self.image_proj)
        tune(self.unet, recipe.scale)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name the MLP, both pathways' keys and values, and the blending."""
        return self.parts.weights()

    def strength(self, scale: float) -> AbstractContextManager[None]:
        """Use this much of both pathways while the context lasts."""
        return self.adapter.strength(scale)

    def eject(self) -> nn.Module:
        """Take the adapter out and return the base as it was; the method is of no use after."""
        return self.adapter.eject()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms, among them ``regions``; see ``Batch`` for what is read."""
        with learning(batch["mask"]) as regions:
            losses = super().forward(batch)
        # The prediction comes first; what losses ask for after it is not what layers learn from.
        missed = torch.stack(regions.terms[: len(self.adapter.attention) // 2]).mean()
        loss = losses["loss"] + self.recipe.method.region_weight * missed
        return losses | {"loss": loss, "regions": missed.detach()}

    def save(self, folder: Path) -> None:
        """Write an export: ``dp-adapter.safetensors`` and what surrounds it.

        Keys and values of identity have IP-Adapter's names; no other layout exists.
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
        return replace(super()._gives(), embed=self.unet.config.cross_attention_dim)

    def _embed(self, given: Given) -> Float[Tensor, "B tokens E"]:
        tokens = together(self.image_proj(given.faces.flatten(0, 1)), given.faces)
        return tokens.float()

    def _residual(
        self, told: Told
    ) -> tuple[Float[Tensor, "B N width"], Float[Tensor, "B N width"]]:
        """Return what both pathways add to a layer's stream where each counts, and the stream."""
        assert told.stream is not None
        (mask,) = shown_mask()
        processor, given = told.layer.processor, (told.states, told.text, told.tokens)
        return processor.added(told.layer, *given, mask), told.stream

    def _predict(
        self,
        z_t: Float[Tensor, "B C H W"],
        t: Int64[Tensor, " B"],
        given: Given,
        size: Float[Tensor, "B 6"] | None,
        control: float = 1.0,  # noqa: ARG002 - of use to others
    ) -> Float[Tensor, "B C H W"]:
        """Ask the UNet, which is told the regions where they are known."""
        dtype = self.unet.dtype
        told = [self._embed(given)[:, None].to(dtype), *shown_mask()]
        added: dict[str, Any] = self._micro(z_t, given, size, dtype)
        pred: Tensor = self.unet(
            z_t.to(dtype),
            t,
            (given.text.to(dtype), told),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return pred.float()
