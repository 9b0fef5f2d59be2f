"""A latent space like StyleGAN's W+, from an identity vector, and its way into cross-attention.

Shapes: B samples, F faces, D identity, L layers of S numbers: 18 x 512 in StyleGAN's W+ of 1024 px;
Q places of the picture, N numbers of each; E the text's width.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from training.nets.cross_attention import attended, finished, finished_alone

LAYERS, STYLE_DIM = 18, 512
GROUPS = (4, 4, 4, 6)
"""Layers behind each token, from coarse (pose, shape) to fine (colour), as published."""
WEIGHTS = {
    "to_q_wplus.weight": "to_q.weight",
    "to_k_wplus.weight": "to_k.weight",
    "to_v_wplus.weight": "to_v.weight",
}
"""Of a processor, with what each begins as."""


class LatentMapper(nn.Module):
    """Map an identity vector to one style per layer: a common one, and what each layer adds.

    So do the encoders of photographs into W+ (e4e), from which the original takes its latents. As
    in StyleGAN's own mapping network the vector is first brought to a second moment of 1: how long
    it is does not count. The space is learnt with the rest: it has W+'s shape, and no generator's
    meaning.

    References:
        Tov et al., "Designing an Encoder for StyleGAN Image Manipulation", arXiv:2102.02766;
        Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", arXiv:1912.04958.
    """

    def __init__(self, identity_dim: int, style_dim: int) -> None:
        super().__init__()
        self.style_dim = style_dim
        self.common = nn.Sequential(
            nn.Linear(identity_dim, style_dim), nn.GELU(), nn.Linear(style_dim, style_dim)
        )
        self.offsets = nn.Linear(style_dim, LAYERS * style_dim)

    def forward(
        self, identity: Float[Tensor, "B F D"], present: Bool[Tensor, "B F"]
    ) -> Float[Tensor, "B F L S"]:
        """Return the styles; zeros, as the original's dropped latents, where nobody is."""
        moment = identity.square().mean(dim=-1, keepdim=True)
        common = self.common(identity * (moment + 1e-8).rsqrt())
        offsets = self.offsets(nn.functional.gelu(common))
        offsets = offsets.view(*present.shape, LAYERS, self.style_dim)
        styles: Tensor = common[..., None, :] + offsets
        return styles * present[..., None, None]


class LatentTokens(nn.Module):
    """Bring groups of layers to a token each: ``WProjModel`` of the original."""

    def __init__(self, style_dim: int, width: int) -> None:
        super().__init__()
        for i, layers in enumerate(GROUPS):
            setattr(self, f"proj_{i}", nn.Linear(layers * style_dim, width, bias=False))
        self.norm = nn.LayerNorm(width)

    def forward(self, styles: Float[Tensor, "B F L S"]) -> Float[Tensor, "B F 4 E"]:
        """Return four tokens per face."""
        groups = torch.split(styles, list(GROUPS), dim=2)
        tokens = [getattr(self, f"proj_{i}")(group.flatten(2)) for i, group in enumerate(groups)]
        normed: Tensor = self.norm(torch.stack(tokens, dim=2))
        return normed


class ResidualCrossAttention(nn.Module):
    """Attend to the text, then let what came of it attend to the latent's tokens, and add that.

    out = a + scale * Attn(a W_q, k_latent, v_latent), where a = Attn(q, k_text, v_text): unlike in
    IP-Adapter, the query of the second is the first's result.

    References:
        Li et al., "When StyleGAN Meets Stable Diffusion: a W+ Adapter for Personalized Image
        Generation", arXiv:2311.17461, equation 5; ``WPlusAttnProcessor2_0`` of its code.
    """

    def __init__(self, width: int, token_width: int) -> None:
        super().__init__()
        self.scale = [1.0]
        self.to_q_wplus = nn.Linear(width, width, bias=False)
        self.to_k_wplus = nn.Linear(token_width, width, bias=False)
        self.to_v_wplus = nn.Linear(token_width, width, bias=False)

    def forward(
        self,
        attn: Any,  # noqa: ANN401  # diffusers' Attention has no types
        hidden_states: Float[Tensor, "B Q N"],
        encoder_hidden_states: tuple[Tensor, list[Tensor]],
        attention_mask: None = None,  # noqa: ARG002 - the layer's call has it
    ) -> Float[Tensor, "B Q N"]:
        """Attend; see diffusers' processors."""
        text, (tokens,) = encoder_hidden_states
        out = attended(attn, attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text))
        if self.scale[0]:
            out = out + self.scale[0] * self._latent(attn, out, tokens.flatten(1, 2))
        return finished(attn, out)

    def added(
        self,
        attn: Any,  # noqa: ANN401 - untyped
        hidden_states: Float[Tensor, "B Q N"],
        text: Float[Tensor, "B T E"],
        tokens: Float[Tensor, "B U E"],
    ) -> Float[Tensor, "B Q N"]:
        """Return what the latent's tokens add to the stream, at full strength."""
        out = attended(attn, attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text))
        latent = self._latent(attn, out, tokens)
        return finished_alone(attn, latent)

    def _latent(
        self,
        attn: Any,  # noqa: ANN401 - untyped
        out: Float[Tensor, "B Q N"],
        tokens: Float[Tensor, "B U E"],
    ) -> Float[Tensor, "B Q N"]:
        """Let what came of the text attend to the tokens."""
        key, value = self.to_k_wplus(tokens), self.to_v_wplus(tokens)
        return attended(attn, self.to_q_wplus(out), key, value)
