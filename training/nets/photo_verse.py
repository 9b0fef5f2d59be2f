"""PhotoVerse's two branches: pseudo-words for the text's, tokens for the image's, and their fusion.

Shapes: B samples, F faces, P states of an image of width I; W tokens of width E; Q places of the
picture, N numbers of each.
"""

from typing import Any

import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from jaxtyping import Float
from torch import Tensor, nn

from training.nets.cross_attention import attended, finished
from training.settings import DropSettings

WIDTH = 1024
"""Of the hidden layers, as in the open reimplementation."""
WEIGHTS = {"to_k_ip.0.weight": "to_k.weight", "to_v_ip.0.weight": "to_v.weight"}
"""Of a processor, with what each begins as."""
_ALONE = 2.0
"""How much a branch counts where the other is left out."""


class ImageWords(nn.Module):
    """Map an image's states to tokens: of each, one MLP of the class state, one of the patches.

    A token is what the first says plus the mean of what the second says of each patch.
    """

    def __init__(self, image_width: int, tokens: int, width: int) -> None:
        super().__init__()
        hidden = min(WIDTH, 4 * width)
        self.whole = nn.ModuleList(_mapping(image_width, hidden, width) for _ in range(tokens))
        self.patch = nn.ModuleList(_mapping(image_width, hidden, width) for _ in range(tokens))

    def forward(self, image: Float[Tensor, "B F P I"]) -> Float[Tensor, "B F W E"]:
        """Return the tokens of each face."""
        first, rest = image[..., :1, :], image[..., 1:, :]
        tokens = [
            whole(first)[..., 0, :] + patch(rest).mean(dim=-2)
            for whole, patch in zip(self.whole, self.patch, strict=True)
        ]
        return torch.stack(tokens, dim=2)


class FusedAttention(IPAdapterAttnProcessor2_0):  # type: ignore[misc]  # has no types
    """out = gamma * Attn(q, k_text, v_text) + sigma * scale * Attn(q, k_image, v_image).

    With the tokens come gamma and sigma of each sample. The open reimplementation draws them anew
    in every layer, also when pictures are drawn, and adds the image before it scales the text
    alone: its text branch is never alone, and two calls never draw the same.

    References:
        Chen et al., "PhotoVerse", arXiv:2309.05793, equation 5.
    """

    def __init__(self, width: int, token_width: int) -> None:
        super().__init__(width, token_width, num_tokens=(1,), scale=[1.0])

    def __call__(
        self,
        attn: Any,  # noqa: ANN401  # diffusers' Attention has no types
        hidden_states: Float[Tensor, "B Q N"],
        encoder_hidden_states: tuple[Tensor, list[Tensor]],
        attention_mask: None = None,  # noqa: ARG002 - the layer's call has it
    ) -> Float[Tensor, "B Q N"]:
        """Attend; see diffusers' processors."""
        text, (tokens, shares) = encoder_hidden_states
        gamma, sigma = shares[:, :1, None], shares[:, 1:, None]
        query = attn.to_q(hidden_states)
        out = attended(attn, query, attn.to_k(text), attn.to_v(text))
        if self.scale[0]:
            image = tokens.flatten(1, 2)
            seen = attended(attn, query, self.to_k_ip[0](image), self.to_v_ip[0](image))
            out = gamma * out + sigma * self.scale[0] * seen
        return finished(attn, out)


def fusion(draw: Float[Tensor, " B"], drop: DropSettings) -> Float[Tensor, "B 2"]:
    """Draw how much the text's branch and the image's count in each sample of a training step.

    A third of the samples has the text twice and no image, a third the image twice and no text, a
    third both; so neither branch learns to leave the person to the other. Nothing new is drawn:
    what is above the shares of ``drop`` in ``draw`` is uniform still. Samples with something
    dropped have both.

    References:
        Chen et al., "PhotoVerse", arXiv:2309.05793, equation 5, with thirds for r1 and r2.
    """
    dropped = drop.identity + drop.text + drop.both
    kept = draw >= dropped
    third = (draw - dropped) / max(1 - dropped, 1e-9) * 3
    alone = draw.new_tensor([[_ALONE, 0.0], [1.0, 1.0], [0.0, _ALONE]])
    return alone[torch.where(kept, third.long().clamp(0, 2), 1)]


def _mapping(inputs: int, hidden: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.LeakyReLU(),
        nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.LeakyReLU(),
        nn.Linear(hidden, outputs),
    )  # fmt: skip
