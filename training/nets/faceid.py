"""IP-Adapter-FaceID inside a diffusers UNet: put in, turned down, taken out.

The modules are diffusers' own, so that what is trained is what ``load_ip_adapter`` builds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.embeddings import IPAdapterFaceIDImageProjection
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn

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


class FaceIDAdapter:
    """Identity tokens from an MLP, and new keys and values that bring them into attention.

    In every cross-attention, out = Attn(q, k_text, v_text) + scale * Attn(q, k_id, v_id), where
    k_id and v_id begin as copies of the text's. A LoRA on all attention layers is optional. All
    weights are the UNet's own parameters from then on, and only they can be trained.

    References:
        Ye et al., "IP-Adapter", arXiv:2308.06721.
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
    ) -> None:
        self.unet, self.lora_rank = unet, lora_rank
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
            self._inject(identity_dim, tokens)
        unet.requires_grad_(False)
        for weight in self.weights().values():
            weight.requires_grad_(True)

    def weights(self) -> dict[str, nn.Parameter]:
        """Return the adapter's weights by their names in the UNet."""
        held = dict(self.unet.named_parameters())
        return {n: held[n] for n in published_names(self.attention, lora=self.lora_rank > 0)}

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
        self.unet.set_attn_processor(dict(self._plain))
        del self.unet.encoder_hid_proj  # as a module; a None in its place would still be listed
        self.unet.encoder_hid_proj = None
        self.unet.config.encoder_hid_dim_type = None
        unet: nn.Module = self.unet.requires_grad_(True)
        return unet

    def _inject(self, identity_dim: int, tokens: int) -> None:
        new_mlp: Any = IPAdapterFaceIDImageProjection
        mlp: nn.Module = new_mlp(
            image_embed_dim=identity_dim,
            cross_attention_dim=self.unet.config.cross_attention_dim,
            mult=2,
            num_tokens=tokens,
        )
        base = self.unet.state_dict()
        weights = {f"{IMAGE_PROJECTION}.{name}": w for name, w in mlp.state_dict().items()}
        weights |= {name: base[copied] for name, copied in key_value_names(self.attention).items()}
        published = nested(publish(weights, self.attention))
        self.unet._load_ip_adapter_weights([published], low_cpu_mem_usage=False)
        if self.lora_rank > 0:
            # The published format has no alpha, so it must equal the rank.
            lora = LoraConfig(
                r=self.lora_rank,
                lora_alpha=self.lora_rank,
                target_modules=["to_q", "to_k", "to_v", "to_out.0"],
            )
            self.unet.add_adapter(lora, adapter_name=ADAPTER)

    def _set_strength(self, scale: float) -> None:
        for processor in list(self.unet.attn_processors.values())[1::2]:
            processor.scale = [scale]
        for module in self.unet.modules():
            if isinstance(module, LoraLayer):
                module.set_scale(ADAPTER, scale)
