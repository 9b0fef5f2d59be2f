"""IP-Adapter-FaceID inside a diffusers UNet: put in, turned down, taken out.

The modules are diffusers' own, so that what is trained is what ``load_ip_adapter`` builds.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.embeddings import (
    IPAdapterFaceIDImageProjection,
    IPAdapterFaceIDPlusImageProjection,
)
from jaxtyping import Float
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from infra.errors import BadValue
from training.nets.faceid_layout import (
    ADAPTER,
    IMAGE_PROJECTION,
    alternates,
    key_value_names,
    nested,
    publish,
    published_names,
)

HEAD_DIM = 64
"""Of the perceiver's attention, as published."""


class PlusProjection(IPAdapterFaceIDPlusImageProjection):  # type: ignore[misc]  # has no types
    """FaceID-Plus' perceiver, which is told the image's states with each call.

    Diffusers' own takes them from an attribute that is set before: two calls could mix them up.
    Here a row is the identity vector followed by the states, flattened. The weights are the same.
    """

    def forward(self, packed: Float[Tensor, "faces values"]) -> Float[Tensor, "faces tokens width"]:
        """Return identity tokens that have looked at the face's image."""
        dim, width = self.proj.net[0].proj.in_features, self.proj_in.in_features
        identity, image = packed[:, :dim], packed[:, dim:].reshape(len(packed), -1, width)
        queries = self.norm(self.proj(identity).view(-1, self.num_tokens, self.embed_dim))
        latents, keys = queries, self.proj_in(image)
        for block in self.layers:
            latents = block(keys, latents, latents)
        tokens: Tensor = self.norm_out(self.proj_out(latents))
        return queries + self.shortcut_scale * tokens if self.shortcut else tokens


class FaceIDAdapter:
    """Identity tokens from an MLP, and new keys and values that bring them into attention.

    In every cross-attention, out = Attn(q, k_text, v_text) + scale * Attn(q, k_id, v_id), where
    k_id and v_id begin as copies of the text's. A LoRA on all attention layers is optional. All
    weights are the UNet's own parameters from then on, and only they can be trained.

    References:
        Ye et al., "IP-Adapter", arXiv:2308.06721; FaceID, -Plus and -Portrait are of its code.
    """

    def __init__(
        self,
        unet: Any,  # noqa: ANN401  # half of diffusers' methods have no types
        reference: str,
        *,
        identity_dim: int,
        tokens: int,
        lora_rank: int,
        seed: int,
        image_width: int = 0,
        shortcut: bool = False,
    ) -> None:
        """Put the adapter into a UNet.

        Args:
            unet: The base.
            reference: Where it is from, for the message.
            identity_dim: Of the encoder's vectors.
            tokens: Per face.
            lora_rank: 0 for none.
            seed: What fresh weights are drawn from.
            image_width: Of the image encoder's states, for FaceID-Plus; 0: the MLP alone.
            shortcut: Of FaceID-Plus: add to the identity tokens instead of replacing them (V2).

        Raises:
            BadValue: The base has no cross-attention where the adapter goes.
        """
        self.unet, self.lora_rank, self.plus = unet, lora_rank, image_width > 0
        self._plain = dict(unet.attn_processors)
        self.attention = tuple(self._plain)
        if not alternates(self.attention):
            raise BadValue(
                "base.weights",
                reference,
                "it has no cross-attention beside each self-attention, which is where the adapter "
                "goes; give a text-to-image base such as Stable Diffusion 1.5 or SDXL.",
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            new = self._perceiver(identity_dim, image_width) if self.plus else None
            self._inject(new or self._mlp(identity_dim, tokens))
        if new is not None:
            new.shortcut = shortcut
        unet.requires_grad_(False)
        for weight in self.weights().values():
            weight.requires_grad_(True)

    def weights(self) -> dict[str, nn.Parameter]:
        """Return the adapter's weights by their names in the UNet."""
        held = dict(self.unet.named_parameters())
        names = published_names(self.attention, lora=self.lora_rank > 0, plus=self.plus)
        return {name: held[name] for name in names}

    @contextmanager
    def strength(self, scale: float) -> Iterator[None]:
        """Use this much of the adapter, attention and LoRA both, while the context lasts."""
        self._set_strength(scale)
        try:
            yield
        finally:
            self._set_strength(1.0)

    def eject(self) -> nn.Module:
        """Take the adapter out and return the UNet as it was."""
        if self.lora_rank > 0:
            self.unet.unload_lora()
        # First, for a perceiver has attention of its own.
        del self.unet.encoder_hid_proj  # as a module; a None in its place would still be listed
        self.unet.encoder_hid_proj = None
        self.unet.set_attn_processor(dict(self._plain))
        self.unet.config.encoder_hid_dim_type = None
        unet: nn.Module = self.unet.requires_grad_(True)
        return unet

    def _mlp(self, identity_dim: int, tokens: int) -> nn.Module:
        make: Any = IPAdapterFaceIDImageProjection
        mlp: nn.Module = make(
            image_embed_dim=identity_dim,
            cross_attention_dim=self.unet.config.cross_attention_dim,
            mult=2,
            num_tokens=tokens,
        )
        return mlp

    def _perceiver(self, identity_dim: int, image_width: int) -> PlusProjection:
        width = self.unet.config.cross_attention_dim
        return PlusProjection(
            embed_dims=width,
            output_dims=width,
            hidden_dims=image_width,
            id_embeddings_dim=identity_dim,
            heads=max(1, width // HEAD_DIM),
            dim_head=HEAD_DIM,
        )

    def _inject(self, projection: nn.Module) -> None:
        base = self.unet.state_dict()
        weights = {f"{IMAGE_PROJECTION}.{name}": w for name, w in projection.state_dict().items()}
        weights |= {name: base[copied] for name, copied in key_value_names(self.attention).items()}
        published = nested(publish(weights, self.attention))
        with _no_warnings():
            self.unet._load_ip_adapter_weights([published], low_cpu_mem_usage=False)
        if self.plus:
            self.unet.encoder_hid_proj.image_projection_layers[0] = projection
        if self.lora_rank > 0:
            # The published format has no alpha, so it must equal the rank. By their full names:
            # a perceiver has layers of the same last names, and no LoRA is published for these.
            layers = [name.removesuffix(".processor") for name in self.attention]
            lora = LoraConfig(
                r=self.lora_rank,
                lora_alpha=self.lora_rank,
                target_modules=[
                    f"{layer}.{part}" for layer in layers for part in
                    ("to_q", "to_k", "to_v", "to_out.0")
                ],
            )  # fmt: skip
            self.unet.add_adapter(lora, adapter_name=ADAPTER)

    def _set_strength(self, scale: float) -> None:
        processors = self.unet.attn_processors
        for name in self.attention[1::2]:
            processors[name].scale = [scale]
        for module in self.unet.modules():
            if isinstance(module, LoraLayer):
                module.set_scale(ADAPTER, scale)


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Let diffusers cast layers without warning of those to keep in float32, which are none."""
    logger = logging.getLogger("diffusers.models.modeling_utils")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
