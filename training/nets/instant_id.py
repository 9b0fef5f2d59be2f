"""InstantID inside and beside a diffusers UNet: put in, turned down, taken out.

The modules are diffusers' own, so that what is trained is what its loaders build.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from torch import Tensor, nn

from infra.errors import BadValue
from training.nets.faceid_layout import alternates, key_value_names
from training.nets.published import (
    keys_and_values_apart,
    keys_and_values_joined,
    perceiver_names,
    renamed,
)

HEAD_DIM = 64
"""Of the Resampler's attention, as published."""
DIM = 1280
"""Of the Resampler, as published."""
_EDGES = (16, 32, 96, 256)
"""Channels of the layers that bring the drawing to the size of the latents, as published: each but
the last halves it."""


class InstantIDAdapter:
    """Identity tokens, keys and values for them, and a ControlNet that is told them too.

    The Resampler makes 16 tokens of an identity vector. In every cross-attention of the frozen
    UNet, out = Attn(q, k_text, v_text) + scale * Attn(q, k_id, v_id), where k_id and v_id begin as
    copies of the text's. IdentityNet is a ControlNet that begins as the UNet's own first half, sees
    landmarks, and takes the same tokens in place of text. All three are trained.

    A narrow base gets a narrower Resampler: twice its width, up to the published 1280.

    References:
        Wang et al., "InstantID: Zero-shot Identity-Preserving Generation in Seconds",
        arXiv:2401.07519.
    """

    def __init__(
        self,
        unet: Any,  # noqa: ANN401  # half of diffusers' methods have no types
        reference: str,
        *,
        identity_dim: int,
        tokens: int,
        latent_px: int,
        seed: int,
    ) -> None:
        """Put keys and values into a UNet; make the rest.

        Args:
            unet: The base.
            reference: Where it is from, for the message.
            identity_dim: Of the encoder's vectors.
            tokens: That the vector becomes.
            latent_px: Pixels of a picture's side that one latent stands for.
            seed: What fresh weights are drawn from.

        Raises:
            BadValue: The base has no cross-attention where the adapter goes, or its latents are of
                a size to which no drawing can be brought.
        """
        self.unet = unet
        self._plain = dict(unet.attn_processors)
        self.attention = tuple(self._plain)
        if not alternates(self.attention):
            raise BadValue(
                "base.weights",
                reference,
                "it has no cross-attention beside each self-attention, which is where the adapter "
                "goes; give a text-to-image base such as SDXL.",
            )
        halvings = latent_px.bit_length() - 1
        if latent_px != 1 << halvings or halvings >= len(_EDGES):
            raise BadValue(
                "base.weights",
                reference,
                f"a latent of its codec stands for {latent_px} px; IdentityNet is built for "
                "1, 2, 4 or 8, as Stable Diffusion's.",
            )
        make_net: Any = ControlNetModel.from_unet
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.controlnet: Any = make_net(
                unet, conditioning_embedding_out_channels=_EDGES[: halvings + 1]
            )
            # Diffusers says it of the UNet alone, and compiles nothing else by blocks.
            self.controlnet._repeated_blocks = unet._repeated_blocks
            self.resampler = self._make_resampler(identity_dim, tokens)
            self._inject(tokens)
        unet.requires_grad_(False)
        for weight in self.weights().values():
            weight.requires_grad_(True)

    def weights(self) -> dict[str, nn.Parameter]:
        """Return all that is trained, by its module (unet, resampler, controlnet) and its name."""
        held = dict(self.unet.named_parameters())
        weights = {f"unet.{name}": held[name] for name in key_value_names(self.attention)}
        for part in ("resampler", "controlnet"):
            weights |= {f"{part}.{n}": w for n, w in getattr(self, part).named_parameters()}
        return weights

    def publish(self) -> dict[str, Tensor]:
        """Return Resampler, keys and values under their published names."""
        weights = self.weights()
        return keys_and_values_joined({theirs: weights[ours] for ours, theirs in self._names()})

    def adopt(self, published: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
        """Give what ``publish`` returned our names.

        Raises:
            BadWeights: A weight is missing, unknown or of another shape.
        """
        names = dict(self._names())
        return renamed(keys_and_values_apart(published), self.weights(), names, path)

    @contextmanager
    def strength(self, scale: float) -> Iterator[None]:
        """Use this much of the keys and values while the context lasts."""
        self._set_strength(scale)
        try:
            yield
        finally:
            self._set_strength(1.0)

    def eject(self) -> nn.Module:
        """Take the adapter out and return the UNet as it was."""
        self.unet.set_attn_processor(dict(self._plain))
        unet: nn.Module = self.unet.requires_grad_(True)
        return unet

    def _make_resampler(self, identity_dim: int, tokens: int) -> nn.Module:
        width = self.unet.config.cross_attention_dim
        heads = max(1, min(DIM, 2 * width) // HEAD_DIM)
        make: Any = IPAdapterPlusImageProjection
        resampler: nn.Module = make(
            embed_dims=identity_dim,
            output_dims=width,
            hidden_dims=heads * HEAD_DIM,
            heads=heads,
            dim_head=HEAD_DIM,
            num_queries=tokens,
        )
        return resampler

    @torch.no_grad()
    def _inject(self, tokens: int) -> None:
        base = self.unet.state_dict()
        processors, make = dict(self._plain), IPAdapterAttnProcessor2_0
        for name in self.attention[1::2]:
            key = base[f"{name.removesuffix('.processor')}.to_k.weight"]
            processors[name] = make(key.shape[0], key.shape[1], num_tokens=[tokens]).to(key)
        self.unet.set_attn_processor(processors)
        held = dict(self.unet.named_parameters())
        for name, copied in key_value_names(self.attention).items():
            held[name].copy_(base[copied])

    def _names(self) -> list[tuple[str, str]]:
        """Return our name and the published one of each weight that is no ControlNet's."""
        inside = {"latents": "latents"} | perceiver_names()
        names = [(f"resampler.{ours}", f"image_proj.{theirs}") for ours, theirs in inside.items()]
        for i, processor in enumerate(self.attention):
            if i % 2:
                for which in ("to_k_ip", "to_v_ip"):
                    ours = f"unet.{processor}.{which}.0.weight"
                    names.append((ours, f"ip_adapter.{i}.{which}.weight"))
        return names

    def _set_strength(self, scale: float) -> None:
        processors = self.unet.attn_processors
        for name in self.attention[1::2]:
            processors[name].scale = [scale]
