"""DP-Adapter in a diffusers UNet: one adapter for the face, one for the rest, and their blending.

Shapes: B samples, N positions of C channels, of a layer of rows x columns.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, binary_cross_entropy_with_logits

from training.nets.cross_attention import CrossAttention, attended, finished, finished_alone
from training.nets.identity_processor import COPIES, OUTSIDE, IdentityProcessor
from training.nets.merging import Told, adain_mean, plain, rescaled

_BLEND = ("blend.weight", "blend.bias")
_TEXT = {"to_k_text.weight": "to_k.weight", "to_v_text.weight": "to_v.weight"}
DUAL = OUTSIDE | {name: name for name in (*_TEXT, *_BLEND)}
"""What each weight of a ``DualProcessor`` is called in a file."""


@dataclass
class Regions:
    """Where the face is, in training, and how far the layers were from knowing it."""

    mask: Float[Tensor, "B H W"]
    terms: list[Float[Tensor, ""]] = field(default_factory=list)


_REGIONS: ContextVar[Regions | None] = ContextVar("regions", default=None)


@contextmanager
def learning(mask: Float[Tensor, "B H W"]) -> Iterator[Regions]:
    """Let layers blend by a mask, and note how well they would have without it."""
    regions = Regions(mask.float())
    running = _REGIONS.set(regions)
    try:
        yield regions
    finally:
        _REGIONS.reset(running)


def shown_mask() -> list[Tensor]:
    """Return the mask of the running training step, to be told to layers; nothing in drawing.

    It goes with the call's arguments: layers that are computed again in the backward pass, as
    gradient checkpointing does, must see what they saw.
    """
    regions = _REGIONS.get()
    return [] if regions is None else [regions.mask]


class DualProcessor(IdentityProcessor):
    """Text as the base tells it, and on it, by region, identity or the text again.

    Attn(text) + scale * (m * Attn(identity) + (1 - m) * (Attn'(text) - Attn(text))), where Attn'
    has keys and values of its own that begin as the base's. m is 1 on the face: in training the
    mask, so that identity learns nothing of what text must explain, and the other way round; in
    drawing what ``blend`` says of both pathways' features, which learns the mask in training.
    """

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__(hidden, width)
        self.to_k_text = nn.Linear(width, hidden, bias=False)
        self.to_v_text = nn.Linear(width, hidden, bias=False)
        self.blend = nn.Linear(2 * hidden, 1)
        nn.init.zeros_(self.blend.weight)
        nn.init.zeros_(self.blend.bias)

    def __call__(
        self,
        attn: Any,  # noqa: ANN401 - diffusers' Attention has no types
        hidden_states: Float[Tensor, "B N C"],
        encoder_hidden_states: Told,
        attention_mask: None = None,
        **_: object,
    ) -> Float[Tensor, "B N C"]:
        """Return what the layer adds to the picture's states."""
        text, (tokens, *masks) = encoder_hidden_states
        if self.scale == [0]:
            told: Tensor = plain(attn, hidden_states, text, attention_mask)
            return told
        tokens = tokens.flatten(1, -2)
        worded, face, rest = self._pathways(attn, hidden_states, text, tokens)
        # What blends learns no faces: it looks, and moves neither pathway.
        known = self.blend(torch.cat([face, worded + rest], dim=2).detach())
        m_BN1 = _at_positions(masks[0], known).to(known) if masks else known.sigmoid()
        if masks:
            # Also where it is not kept: a layer that is computed again must do the same again.
            missed = binary_cross_entropy_with_logits(known.float(), m_BN1.float())
            regions = _REGIONS.get()
            if regions is not None:
                regions.terms.append(missed)
        if self.merge.rescale:
            face = rescaled(face, worded)
        return finished(attn, worded + self.scale[0] * (m_BN1 * face + (1 - m_BN1) * rest))

    def added(
        self,
        attn: Any,  # noqa: ANN401 - diffusers' Attention has no types
        hidden_states: Float[Tensor, "B N C"],
        text: Float[Tensor, "B T E"],
        tokens: Float[Tensor, "B U E"],
        mask: Float[Tensor, "B H W"],
    ) -> Float[Tensor, "B N C"]:
        """Return what both pathways add to the stream, at full strength, blended by a mask."""
        _, face, rest = self._pathways(attn, hidden_states, text, tokens)
        m_BN1 = _at_positions(mask, face).to(face)
        return finished_alone(attn, m_BN1 * face + (1 - m_BN1) * rest)

    def _pathways(
        self,
        attn: Any,  # noqa: ANN401 - untyped
        hidden_states: Float[Tensor, "B N C"],
        text: Float[Tensor, "B T E"],
        tokens: Float[Tensor, "B U E"],
    ) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B N C"], Float[Tensor, "B N C"]]:
        """Return what the base's attention to text says, the face, and what the rest changes."""
        query, text_key, text_value = attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text)
        key, value = self.to_k_ip[0](tokens), self.to_v_ip[0](tokens)
        if self.merge.adain_mean:
            key, value = adain_mean(key, text_key), adain_mean(value, text_value)
        worded = attended(attn, query, text_key, text_value)
        face = attended(attn, query, key, value)
        rest = attended(attn, query, self.to_k_text(text), self.to_v_text(text)) - worded
        return worded, face, rest


def _at_positions(
    mask: Float[Tensor, "B H W"], known: Float[Tensor, "B N _"]
) -> Float[Tensor, "B N 1"]:
    """Bring a mask to the positions of a layer, each the mean of what it stands for."""
    rows, columns = mask.shape[1:]
    # A UNet halves both sides, rounding up, from stage to stage.
    while rows * columns > known.shape[1]:
        rows, columns = -(-rows // 2), -(-columns // 2)
    return adaptive_avg_pool2d(mask[:, None], (rows, columns)).flatten(1)[:, :, None]


class DualAdapter(CrossAttention):
    """Both pathways and their blending, in every cross-attention."""

    def __init__(self, unet: Any, reference: str) -> None:  # noqa: ANN401 - untyped
        super().__init__(unet, reference, DualProcessor, COPIES | _TEXT)

    def weights(self) -> dict[str, nn.Parameter]:
        """Return what is trained by its names in the UNet."""
        held = dict(self.unet.named_parameters())
        blends = [f"{name}.{part}" for name in self.attention[1::2] for part in _BLEND]
        return super().weights() | {name: held[name] for name in blends}
