"""FastComposer's part in the UNet: keys and values of cross-attention, learnt anew beside the old.

Shapes: B samples; Q places of the picture, N numbers of each; T text tokens of width E.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.nets.cross_attention import attended, finished

WEIGHTS = {"to_k.weight": "to_k.weight", "to_v.weight": "to_v.weight"}
"""Of a processor, with what each begins as."""


class LearntKeysAndValues(nn.Module):
    """Cross-attention whose keys and values are not the layer's own, but what they became.

    They begin as copies. At a scale between 0 and 1 they are as far between the two.
    """

    def __init__(self, width: int, token_width: int) -> None:
        super().__init__()
        self.scale = [1.0]
        self.to_k = nn.Linear(token_width, width, bias=False)
        self.to_v = nn.Linear(token_width, width, bias=False)

    def forward(
        self,
        attn: Any,  # noqa: ANN401  # diffusers' Attention has no types
        hidden_states: Float[Tensor, "B Q N"],
        encoder_hidden_states: Float[Tensor, "B T E"],
        attention_mask: None = None,  # noqa: ARG002 - the layer's call has it
    ) -> Float[Tensor, "B Q N"]:
        """Attend; see diffusers' processors."""
        (scale,), text = self.scale, encoder_hidden_states
        if scale == 0:
            key, value = attn.to_k(text), attn.to_v(text)
        else:
            key, value = self.to_k(text), self.to_v(text)
        if 0 < scale < 1:
            key = torch.lerp(attn.to_k(text), key, scale)
            value = torch.lerp(attn.to_v(text), value, scale)
        return finished(attn, attended(attn, attn.to_q(hidden_states), key, value))


def shares_of_tokens(
    attn: Any,  # noqa: ANN401  # diffusers' Attention has no types
    states: Float[Tensor, "B Q N"],
    text: Float[Tensor, "B T E"],
) -> Float[Tensor, "B Q T"]:
    """Return the share of each place's attention that each token has, over all heads."""

    def heads(told: Tensor) -> Tensor:
        return told.view(*told.shape[:2], attn.heads, -1).transpose(1, 2).float()

    key, query = heads(attn.processor.to_k(text)), heads(attn.to_q(states))
    shares: Tensor = (query @ key.transpose(2, 3) * attn.scale).softmax(dim=-1)
    return shares.mean(dim=1)
