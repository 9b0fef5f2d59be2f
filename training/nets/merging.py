"""How what identity adds to a cross-attention is merged with what the text says there.

Shapes: B samples, N positions or tokens of C channels, M tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0
from jaxtyping import Float
from torch import Tensor, nn

from infra.errors import BadValue
from training.nets.cross_attention import attended, finished

Told = tuple[Tensor, list[Tensor]]
"""What a cross-attention with identity is told: text, and identity's tokens."""

# Said in one place, so that an adapter at 0 computes its base's numbers with its base's code.
plain: Any = AttnProcessor2_0()


@dataclass(frozen=True)
class Merge:
    """What is done before both are added; see ``training.method.Sampling``."""

    rescale: bool = False
    adain_mean: bool = False


def adain_mean(x: Float[Tensor, "B N C"], like: Float[Tensor, "B M C"]) -> Float[Tensor, "B N C"]:
    """Return x - mean(x) + mean(like), means over positions.

    Only means are aligned: with variances, as in AdaIN, faces lose likeness.

    References:
        Wu et al., "Infinite-ID", arXiv:2403.11781, the AdaIN-mean operation.
    """
    return x - x.mean(dim=1, keepdim=True) + like.mean(dim=1, keepdim=True)


def rescaled(x: Float[Tensor, "B N C"], like: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
    """Return x with, for each sample, the norm of ``like``; zeros stay zeros.

    Norms are in float32, for the squares of a whole layer overflow float16. The original adds its
    1e-6 to every sample's norm as soon as one of them is small; here no sample changes another.

    References:
        Pang et al., "Training for Identity, Inference for Controllability" (UniID),
        arXiv:2512.03964, normalised rescaling; modules/attention_processor.py of its code.
    """
    of_x, of_like = (torch.linalg.vector_norm(each.float(), dim=(1, 2)) for each in (x, like))
    share: Tensor = of_like / of_x.clamp(min=1e-6)
    return x * share.to(x)[:, None, None]


def decoupled(
    attn: Any,  # noqa: ANN401 - diffusers' Attention has no types
    processor: IPAdapterAttnProcessor2_0,
    states: Float[Tensor, "B N C"],
    told: Told,
    merge: Merge,
) -> Float[Tensor, "B N C"]:
    """Return Attn(q, k_text, v_text) + scale * Attn(q, k_id, v_id), merged as ``merge`` says.

    Args:
        attn: The cross-attention of a transformer block.
        processor: Whose ``to_k_ip``, ``to_v_ip`` and ``scale`` are used.
        states: Of the picture.
        told: Text, and identity's tokens.
        merge: How.
    """
    text, tokens = told[0], told[1][0].flatten(1, -2)
    (scale,) = processor.scale
    query, text_key, text_value = attn.to_q(states), attn.to_k(text), attn.to_v(text)
    key, value = processor.to_k_ip[0](tokens), processor.to_v_ip[0](tokens)
    if merge.adain_mean:
        key, value = adain_mean(key, text_key), adain_mean(value, text_value)
    worded = attended(attn, query, text_key, text_value)
    shown = attended(attn, query, key, value)
    if merge.rescale:
        shown = rescaled(shown, worded)
    return finished(attn, worded + scale * shown)


class _Merged:
    """Another way to merge, in place of a diffusers processor, with its weights."""

    def __init__(self, processor: IPAdapterAttnProcessor2_0, merge: Merge) -> None:
        self.processor, self.merge = processor, merge

    def __call__(
        self,
        attn: Any,  # noqa: ANN401 - diffusers' Attention has no types
        hidden_states: Tensor,
        encoder_hidden_states: Told,
        attention_mask: None = None,
        **_: object,
    ) -> Tensor:
        if self.processor.scale == [0]:
            told: Tensor = plain(attn, hidden_states, encoder_hidden_states[0], attention_mask)
            return told
        return decoupled(attn, self.processor, hidden_states, encoder_hidden_states, self.merge)


@contextmanager
def merging(unet: nn.Module, merge: Merge) -> Iterator[None]:
    """Merge in another way while the context lasts; nothing changes if none is asked for.

    Processors with a ``merge`` of their own are told of it.

    Raises:
        BadValue: The network has no decoupled attention, or only of a kind that merges as it does.
    """
    if merge == Merge():
        yield
        return
    held: dict[str, Any] = {
        name: each for name, each in unet.named_modules() if hasattr(each, "processor")
    }
    theirs: dict[str, Any] = {
        name: layer.processor
        for name, layer in held.items()
        if hasattr(layer.processor, "merge") or type(layer.processor) is IPAdapterAttnProcessor2_0
    }
    if not theirs:
        raise BadValue(
            "sampling.rescale" if merge.rescale else "sampling.adain_mean",
            True,
            "this method has no decoupled attention that could merge in another way; leave it out.",
        )
    try:
        for name, processor in theirs.items():
            if hasattr(processor, "merge"):
                processor.merge = merge
            else:
                held[name].set_processor(_Merged(processor, merge))
        yield
    finally:
        for name, processor in theirs.items():
            if hasattr(processor, "merge"):
                processor.merge = Merge()
            else:
                held[name].set_processor(processor)
