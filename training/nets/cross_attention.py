"""Processors of a method's own in the cross-attention of a frozen UNet: put in, turned down, out.

Shapes: B samples; Q places of the picture; K tokens; N numbers of each.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from infra.errors import BadValue
from training.nets.faceid_layout import alternates

LORA = "visage"
"""What the LoRA is called inside the UNet."""
PROJECTIONS = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"}
"""Of an attention layer, by its name in diffusers: what published layouts call them."""
_SIDES = {"lora_A": "down", "lora_B": "up"}


class CrossAttention:
    """A processor per cross-attention, which alone is trained; and a LoRA, where one is asked for.

    Every processor has a list ``scale`` of one number; at 0 it must do what diffusers' own does,
    bit for bit.
    """

    def __init__(
        self,
        unet: Any,  # noqa: ANN401  # half of diffusers' methods have no types
        reference: str,
        make: Callable[[int, int], nn.Module],
        copies: Mapping[str, str],
        *,
        lora_rank: int = 0,
        lora_parts: tuple[str, ...] = tuple(PROJECTIONS),
        lora_on_self: bool = True,
        seed: int = 0,
    ) -> None:
        """Put processors into a UNet, and freeze all else of it.

        Args:
            unet: The base.
            reference: Where it is from, for the message.
            make: Gives a processor, told the width of the picture's states and of the tokens.
            copies: Each weight of a processor, and which weight of its layer it begins as.
            lora_rank: 0 for none.
            lora_parts: Projections that get a LoRA; of ``PROJECTIONS``.
            lora_on_self: Whether self-attention has it too, or cross-attention alone.
            seed: What fresh weights are drawn from.

        Raises:
            BadValue: The base has no cross-attention beside each self-attention.
        """
        self.unet, self.lora_rank, self._copies = unet, lora_rank, dict(copies)
        self._plain = dict(unet.attn_processors)
        # AnimateDiff's motion modules have processors too, and these look at time, not at text.
        self.attention = tuple(name for name in self._plain if "motion_modules" not in name)
        self.scale = 1.0
        if not alternates(self.attention):
            raise BadValue(
                "base.weights",
                reference,
                "it has no cross-attention beside each self-attention, which is where the adapter "
                "goes; give a text-to-image base such as Stable Diffusion 1.5 or SDXL.",
            )
        self._lora_parts = lora_parts
        self._with_lora = self.attention if lora_on_self else self.attention[1::2]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._inject(make)
            if lora_rank > 0:
                self._add_lora()
        unet.requires_grad_(False)
        for weight in self.weights().values():
            weight.requires_grad_(True)

    def weights(self) -> dict[str, nn.Parameter]:
        """Return what is trained by its names in the UNet."""
        held = dict(self.unet.named_parameters())
        own = [f"{name}.{part}" for name in self.attention[1::2] for part in self._copies]
        return {name: held[name] for name in [*own, *self._lora_names()]}

    def published_names(self, prefix: str, own: Mapping[str, str]) -> dict[str, str]:
        """Return the published name of each of our names, ``<prefix>.<layer's number>.<weight>``.

        With motion modules around, diffusers counts them where it reads a LoRA, and not where it
        reads keys and values; so do these names.

        Args:
            prefix: Of all of them.
            own: Each weight of a processor, and what it is published as.
        """
        numbers = {name: i for i, name in enumerate(self.attention)}
        places = {name: i for i, name in enumerate(self._plain)}
        names = {
            f"{name}.{ours}": f"{prefix}.{numbers[name]}.{theirs}"
            for name in self.attention[1::2]
            for ours, theirs in own.items()
        }
        return names | {
            ours: f"{prefix}.{places[name]}.{theirs}_lora.{way}.weight"
            for ours, (name, theirs, way) in self._lora_names().items()
        }

    @contextmanager
    def strength(self, scale: float) -> Iterator[None]:
        """Use this much of the processors and the LoRA while the context lasts."""
        self._set_strength(scale)
        try:
            yield
        finally:
            self._set_strength(1.0)

    def eject(self) -> nn.Module:
        """Take all of it out and return the UNet as it was."""
        if self.lora_rank > 0:
            self.unet.unload_lora()
        self.unet.set_attn_processor(dict(self._plain))
        unet: nn.Module = self.unet.requires_grad_(True)
        return unet

    @torch.no_grad()
    def _inject(self, make: Callable[[int, int], nn.Module]) -> None:
        base, processors = self.unet.state_dict(), dict(self._plain)
        for name in self.attention[1::2]:
            layer = name.removesuffix(".processor")
            key = base[f"{layer}.to_k.weight"]
            processors[name] = made = make(*key.shape).to(key)
            held = dict(made.named_parameters())
            for own, copied in self._copies.items():
                held[own].copy_(base[f"{layer}.{copied}"])
        self.unet.set_attn_processor(processors)

    def _add_lora(self) -> None:
        layers = [name.removesuffix(".processor") for name in self._with_lora]
        # Published formats have no alpha, so it must equal the rank.
        lora = LoraConfig(
            r=self.lora_rank,
            lora_alpha=self.lora_rank,
            target_modules=[f"{layer}.{part}" for layer in layers for part in self._lora_parts],
        )
        self.unet.add_adapter(lora, adapter_name=LORA)

    def _lora_names(self) -> dict[str, tuple[str, str, str]]:
        """Name the LoRA's weights; of each its layer's processor, projection and way."""
        if not self.lora_rank:
            return {}
        return {
            f"{name.removesuffix('.processor')}.{part}.{side}.{LORA}.weight": (
                name, PROJECTIONS[part], way,
            )
            for name in self._with_lora
            for part in self._lora_parts
            for side, way in _SIDES.items()
        }  # fmt: skip

    def _set_strength(self, scale: float) -> None:
        self.scale = scale
        processors = self.unet.attn_processors
        for name in self.attention[1::2]:
            processors[name].scale = [scale]
        for module in self.unet.modules():
            if isinstance(module, LoraLayer):
                module.set_scale(LORA, scale)


def attended(
    attn: Any,  # noqa: ANN401  # diffusers' Attention has no types
    query: Float[Tensor, "B Q N"],
    key: Float[Tensor, "B K N"],
    value: Float[Tensor, "B K N"],
) -> Float[Tensor, "B Q N"]:
    """Attend with the heads of a layer; step by step what diffusers' ``AttnProcessor2_0`` does."""
    count, _, width = query.shape

    def heads(states: Tensor) -> Tensor:
        return states.view(count, -1, attn.heads, width // attn.heads).transpose(1, 2)

    out = nn.functional.scaled_dot_product_attention(heads(query), heads(key), heads(value))
    return out.transpose(1, 2).reshape(count, -1, width).to(query.dtype)


def finished(attn: Any, states: Float[Tensor, "B Q N"]) -> Float[Tensor, "B Q N"]:  # noqa: ANN401
    """Bring what was attended to back to the width of the block."""
    out: Tensor = attn.to_out[1](attn.to_out[0](states)) / attn.rescale_output_factor
    return out


def finished_alone(attn: Any, states: Float[Tensor, "B Q N"]) -> Float[Tensor, "B Q N"]:  # noqa: ANN401
    """Bring a part of it back: without the bias, which is of the whole, and the base's."""
    return finished(attn, states) - finished(attn, torch.zeros_like(states[:, :1]))
