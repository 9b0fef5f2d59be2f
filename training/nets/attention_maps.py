"""What the cross-attention of a UNet looks at: noted beside a call, which it does not change.

Hooks keep what each layer is told; probabilities are computed from it after the call, with the
layer's own projections. So any processor may compute the prediction (diffusers' fused ones never
make probabilities), gradients reach queries and keys, and gradient checkpointing recomputes what it
would have without hooks.

Shapes: B samples; N pixels, in rows x columns, of width C inside a layer; T text tokens and U
identity tokens of width E.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass
class Told:
    """What one layer of cross-attention was told in one call."""

    layer: Any  # diffusers' Attention: half of its methods have no types
    stream: Float[Tensor, "B N C"] | None = None
    """What the layer's output is added to."""
    states: Float[Tensor, "B N C"] | None = None
    """The same after its norm: what queries are made of."""
    text: Float[Tensor, "B T E"] | None = None
    tokens: Float[Tensor, "B U E"] | None = None
    """Identity tokens beside the text, in decoupled attention as IP-Adapter's."""

    def of_text(self) -> Float[Tensor, "B N T"]:
        """Return the share of each pixel's attention that each text token has, over all heads."""
        shares: Tensor = self._scores(self._keys(self.text, None)).softmax(dim=-1)
        return shares.mean(dim=1)

    def of_identity(self) -> Float[Tensor, "B N U"]:
        """Return the share that each identity token has, of one softmax over text and tokens.

        Decoupled attention gives identity tokens a softmax of their own, whose sum is 1 at every
        pixel: as if all of the face were everywhere. What identity has *beside text* is in the
        joint one: out = Attn(q, [k_text; k_id]) would look there.
        """
        assert self.tokens is not None
        both = [self._keys(self.text, None), self._keys(self.tokens, self.layer.processor)]
        shares: Tensor = self._scores(torch.cat(both, dim=2)).softmax(dim=-1)
        return shares[..., -self.tokens.shape[1] :].mean(dim=1)

    def added(self) -> Float[Tensor, "B N C"]:
        """Return what the identity tokens add to the stream, at full strength."""
        layer, processor = self.layer, self.layer.processor
        value = self._heads(processor.to_v_ip[0](self.tokens))
        key = self._keys(self.tokens, processor)
        out = nn.functional.scaled_dot_product_attention(self._queries(), key, value)
        joined = out.transpose(1, 2).flatten(2)
        # Without the bias, which is the text's.
        added: Tensor = layer.to_out[0](joined) - layer.to_out[0](torch.zeros_like(joined[:, :1]))
        return added

    def _scores(self, key: Float[Tensor, "B heads K D"]) -> Float[Tensor, "B heads N K"]:
        scale: float = self.layer.scale
        return self._queries().float() @ key.float().transpose(2, 3) * scale

    def _queries(self) -> Float[Tensor, "B heads N D"]:
        return self._heads(self.layer.to_q(self.states))

    def _keys(
        self,
        told: Float[Tensor, "B K E"] | None,
        processor: Any,  # noqa: ANN401 - no types
    ) -> Float[Tensor, "B heads K D"]:
        return self._heads((processor.to_k_ip[0] if processor else self.layer.to_k)(told))

    def _heads(self, states: Float[Tensor, "B K inner"]) -> Float[Tensor, "B heads K D"]:
        return states.view(*states.shape[:2], self.layer.heads, -1).transpose(1, 2)


@dataclass(frozen=True)
class Watched:
    """The layers that were watched, by name, in the order of the call."""

    told: dict[str, Told] = field(default_factory=dict)


@contextmanager
def watched(unet: nn.Module, layers: Iterable[str]) -> Iterator[Watched]:
    """Note what some layers of cross-attention are told while the context lasts.

    Args:
        unet: A UNet of diffusers, whose cross-attention is ``attn2`` of blocks with ``norm2``.
        layers: Names of the layers, see ``cross_attention``.
    """
    held = Watched()
    with ExitStack() as hooks:
        for name in layers:
            told = Told(unet.get_submodule(name))
            norm = unet.get_submodule(f"{name.removesuffix('attn2')}norm2")
            for module, note in ((norm, _note_stream), (told.layer, _note_told)):
                hook = module.register_forward_pre_hook(partial(note, told), with_kwargs=True)
                hooks.callback(hook.remove)
            held.told[name] = told
        yield held


def cross_attention(unet: Any, *, coarse: bool = False) -> list[str]:  # noqa: ANN401 - no types
    """Name a UNet's layers of cross-attention.

    Args:
        unet: A UNet of diffusers.
        coarse: Leave out the first and the last stage, whose maps are the largest, if there are
            more: FastComposer's (arXiv:2305.10431) five layers of Stable Diffusion 1.5.
    """
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    names = [name for name in names if name.endswith("attn2")]
    # A UNet names its layers down, up, middle.
    order = ("down_blocks", "mid_block", "up_blocks")
    stages = sorted({_stage(name) for name in names}, key=lambda s: (order.index(s[0]), s[1]))
    kept = stages[1:-1] if coarse and len(stages) > 2 else stages
    return [name for name in names if _stage(name) in kept]


def as_picture(
    shares: Float[Tensor, "B N *more"], rows: int, columns: int
) -> Float[Tensor, "B rows columns *more"]:
    """Put the pixels of a layer, inside a UNet for latents of rows x columns, in their places."""
    while rows * columns > shares.shape[1]:
        rows, columns = -(-rows // 2), -(-columns // 2)
    return shares.view(len(shares), rows, columns, *shares.shape[2:])


def _stage(name: str) -> tuple[str, str]:
    block, number, *_ = name.split(".")
    return block, number if block != "mid_block" else ""


def _note_stream(told: Told, _: nn.Module, args: tuple[Any, ...], __: dict[str, Any]) -> None:
    told.stream = args[0]


def _note_told(told: Told, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    told.states = args[0] if args else kwargs["hidden_states"]
    text = kwargs["encoder_hidden_states"]
    if isinstance(text, tuple):
        text, tokens = text
        told.tokens = tokens[0].flatten(1, -2)
    told.text = text
