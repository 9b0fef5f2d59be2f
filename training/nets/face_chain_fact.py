"""FaceChain-FACT in a diffusers UNet: gated self-attention between self- and cross-attention.

Shapes: B samples, N positions of C channels; F reference faces each.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock, GatedSelfAttentionDense
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from jaxtyping import Float
from torch import Tensor, nn

from infra.errors import BadValue
from training.features import Features
from training.nets.face_states import Faces, SeenAndKnown, together
from training.nets.faceid_layout import alternates
from training.nets.published import (
    keys_and_values_apart,
    keys_and_values_joined,
    perceiver_names,
    renamed,
)

HEAD_DIM = 64
"""Of the resampler's attention, as published."""
DIM, HEADS = 1024, 12
"""Of the resampler, as published."""


class GatedFace(GatedSelfAttentionDense):  # type: ignore[misc]  # has no types
    """GLIGEN's gated self-attention over positions and face tokens, which can be turned down.

    x + s tanh(a) SA(norm([x, W tokens])), then x + s tanh(b) FF(norm(x)): a and b begin at 0, so
    that the base is what it was. The same as FaceAttnProcessor of the original, which took the
    norm before cross-attention into its processor to get between the two attentions; diffusers has
    this very place for GLIGEN's layers.

    Attributes:
        scale: s.
        notes: Whether ``noted`` is kept.
        noted: What the last call added, and to what.
    """

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__(width, context, heads, width // heads)
        # Not GLIGEN's scalars: DeepSpeed sends no weight without an axis to other workers.
        self.alpha_attn, self.alpha_dense = (nn.Parameter(torch.zeros(1)) for _ in range(2))
        self.scale, self.notes = 1.0, False
        self.noted: tuple[Tensor, Tensor] | None = None

    def forward(
        self, x: Float[Tensor, "B N C"], objs: Float[Tensor, "B tokens width"]
    ) -> Float[Tensor, "B N C"]:
        """Return the positions' states with what they took from the face."""
        if self.scale == 0:
            return x
        seen = torch.cat([x, self.linear(objs)], dim=1)
        looked = self.attn(self.norm1(seen))[:, : x.shape[1]]
        moved = x + self.scale * self.alpha_attn.tanh().to(x) * looked
        dense: Tensor = moved + self.scale * self.alpha_dense.tanh().to(x) * self.ff(
            self.norm2(moved)
        )
        if self.notes:
            self.noted = dense - x, x
        return dense


class AsGiven(nn.Module):
    """What stands where GLIGEN embeds boxes: the tokens are made already."""

    def forward(self, objs: Tensor) -> Tensor:
        """Return what is given."""
        return objs


class FaceTokens(nn.Module):
    """A resampler over a face's states; see ``SeenAndKnown`` for which these are.

    The original's are the 144 penultimate tokens of a face transformer (TransFace-S), which are
    not prepared. Each gated layer has its own projection of the tokens (``linear``).
    """

    def __init__(self, features: Features, tokens: int, width: int) -> None:
        super().__init__()
        self.features, self.states = features, SeenAndKnown(features)
        make: Any = IPAdapterPlusImageProjection
        self.local_fac_prj: nn.Module = make(
            embed_dims=features.image_shape[1],
            output_dims=width,
            # Twelve heads and 1,024 at the width of Stable Diffusion 1.5, 768, and above.
            hidden_dims=min(DIM, width * 4 // 3),
            heads=max(1, min(HEADS, width // HEAD_DIM)),
            dim_head=HEAD_DIM,
            num_queries=tokens,
        )

    def forward(self, packed: Float[Tensor, "B F values"]) -> Float[Tensor, "B tokens width"]:
        """Return the tokens of all faces of a sample, after one another."""
        states = self.states(Faces.of(packed, self.features))
        return together(self.local_fac_prj(states), packed)


class FactAdapter:
    """A gated layer in every transformer block of a frozen UNet.

    References:
        Yu et al., "FaceChain-FACT: Face Adapter with Decoupled Training for Identity-preserved
        Personalization", arXiv:2410.12312; face_attention_processor_v1.py of its code.
    """

    def __init__(self, unet: Any, reference: str, seed: int) -> None:  # noqa: ANN401 - untyped
        """Put layers into a UNet.

        Raises:
            BadValue: The base has no cross-attention beside each self-attention.
        """
        if not alternates(tuple(unet.attn_processors)):
            raise BadValue(
                "base.weights",
                reference,
                "it has no cross-attention beside each self-attention, between which the adapter "
                "goes; give a text-to-image base such as Stable Diffusion 1.5.",
            )
        self.unet = unet
        self.blocks: dict[str, Any] = {
            name: block
            for name, block in unet.named_modules()
            if isinstance(block, BasicTransformerBlock)
        }
        unet.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for block in self.blocks.values():
                width, context = block.attn2.to_k.weight.shape
                gate = GatedFace(width, context, block.attn2.heads)
                block.fuser = gate.to(block.attn2.to_k.weight)
        unet.position_net = AsGiven()

    def weights(self) -> dict[str, nn.Parameter]:
        """Return all weights of the layers, by their names in the UNet."""
        return {
            f"{name}.fuser.{which}": weight
            for name, block in self.blocks.items()
            for which, weight in block.fuser.named_parameters()
        }

    def note(self) -> None:
        """Keep what each call's layers add, from now on; see ``noted``."""
        for block in self.blocks.values():
            block.fuser.notes = True

    def noted(self, attention: nn.Module) -> tuple[Tensor, Tensor]:
        """Return what the layer before a cross-attention added in the last call, and to what."""
        (block,) = (block for block in self.blocks.values() if block.attn2 is attention)
        assert block.fuser.noted is not None
        noted: tuple[Tensor, Tensor] = block.fuser.noted
        return noted

    @contextmanager
    def strength(self, scale: float) -> Iterator[None]:
        """Use this much of the layers while the context lasts; 0: be the base."""
        self._set_scale(scale)
        try:
            yield
        finally:
            self._set_scale(1.0)

    def eject(self) -> nn.Module:
        """Take the layers out and return the UNet as it was."""
        for block in self.blocks.values():
            del block.fuser
        del self.unet.position_net
        unet: nn.Module = self.unet.requires_grad_(True)
        return unet

    def _set_scale(self, scale: float) -> None:
        for block in self.blocks.values():
            block.fuser.scale = scale


def publish(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename our weights to the original's: ``<layer>.attn2.processor.*``, ``local_fac_prj.*``."""
    published = {theirs: weights[ours] for ours, theirs in _names(weights).items()}
    gates = {name: weight.view(()) for name, weight in published.items() if _is_gate(name)}
    return keys_and_values_joined(published | gates)


def adopt(
    published: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """Rename published weights to ours.

    Raises:
        BadWeights: A weight is missing, unknown or of another shape.
    """
    gates = {name: weight.reshape(-1) for name, weight in published.items() if _is_gate(name)}
    apart = keys_and_values_apart({**published, **gates})
    return renamed(apart, expected, _names(expected), path)


def _is_gate(name: str) -> bool:
    return name.endswith((".alpha_attn", ".alpha_dense"))


def _names(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the published name of each of ours."""
    inside = "tokens.local_fac_prj."
    perceiver = {"latents": "latents"} | perceiver_names()
    names = {f"{inside}{ours}": f"local_fac_prj.{theirs}" for ours, theirs in perceiver.items()}
    for ours in weights:
        if ours.startswith("unet."):
            names[ours] = ours.removeprefix("unet.").replace(".fuser.", ".attn2.processor.")
        elif not ours.startswith(inside):
            names[ours] = ours.removeprefix("tokens.")
    return names
