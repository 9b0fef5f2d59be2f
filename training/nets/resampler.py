"""IP-Adapter-Plus' Resampler: learnt queries that look at an image encoder's states."""

from typing import Any

from diffusers.models.embeddings import IPAdapterPlusImageProjection
from torch import nn

HEAD_DIM = 64
"""Of its attention, as published: diffusers' loader knows no other."""


def make_resampler(image_width: int, text_width: int, tokens: int) -> nn.Module:
    """Make one as wide as the base's text, of four blocks: 768 and 12 heads for Stable Diffusion.

    It is called with states (faces x patches x image width) and gives tokens (faces x tokens x text
    width).

    Args:
        image_width: Of the image encoder's states.
        text_width: Of the base.
        tokens: How many it makes.

    References:
        Ye et al., "IP-Adapter", arXiv:2308.06721, ``resampler.py`` of its code.
    """
    make: Any = IPAdapterPlusImageProjection
    resampler: nn.Module = make(
        embed_dims=image_width,
        output_dims=text_width,
        hidden_dims=text_width,
        heads=max(1, text_width // HEAD_DIM),
        dim_head=HEAD_DIM,
        num_queries=tokens,
    )
    return resampler
