"""Cross-attention whose keys and values are of two texts.

Shapes: B samples, N pixels of width C inside a layer, T tokens of width E.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class KeyValueText:
    """A processor: the first half of the tokens makes the keys, the second half the values.

    With both halves the same it is diffusers' own attention, bit for bit.

    References:
        Alaluf et al., "A Neural Space-Time Representation for Text-to-Image Personalization",
        arXiv:2305.15391, and SeFi-IDE, arXiv:2402.00631: where a word looks and what it paints
        there are apart.
    """

    def __call__(
        self,
        layer: Any,  # noqa: ANN401 - diffusers' Attention has no types
        hidden_states: Float[Tensor, "B N C"],
        encoder_hidden_states: Float[Tensor, "B both E"],
        attention_mask: None = None,  # noqa: ARG002 - diffusers hands it over
        temb: None = None,  # noqa: ARG002
    ) -> Float[Tensor, "B N C"]:
        """Attend."""
        of_keys, of_values = encoder_hidden_states.chunk(2, dim=1)

        def heads(states: Tensor) -> Tensor:
            return states.view(*states.shape[:2], layer.heads, -1).transpose(1, 2)

        out = nn.functional.scaled_dot_product_attention(
            heads(layer.to_q(hidden_states)),
            heads(layer.to_k(of_keys)),
            heads(layer.to_v(of_values)),
        )
        attended: Tensor = layer.to_out[1](layer.to_out[0](out.transpose(1, 2).flatten(2)))
        return attended


def texts_apart(unet: Any) -> dict[str, Any]:  # noqa: ANN401 - no types
    """Put the processor into every cross-attention of a UNet; return what was there."""
    plain = dict(unet.attn_processors)
    apart = {name: KeyValueText() if "attn2" in name else each for name, each in plain.items()}
    unet.set_attn_processor(apart)
    return plain


def twice(text: Float[Tensor, "B T E"]) -> Float[Tensor, "B both E"]:
    """Let one text be both."""
    return torch.cat([text, text], dim=1)
