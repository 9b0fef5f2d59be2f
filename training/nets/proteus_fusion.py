"""Proteus-ID's fusion of the words about a person with the face, by its published names.

Shapes: B samples; T tokens that ask; Q learnt queries, as many tokens of the person; L text tokens
of width E; P patches of width V in each of S layers of an image encoder.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from training.features import Features
from training.nets.consis_id import ExtractorAttention

_NARROW = 1000
"""A base below this width is a toy, and gets modules of its size."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large what is added is; as published where nothing is said."""

    text: int
    """E."""
    face: int
    """Numbers of the reference face's vectors: ArcFace's 512 and EVA-CLIP's 768 as published."""
    states: int
    """V: 1024 as published."""
    layers: int
    """S: 5 as published."""
    inner: int
    """Width of the base."""
    tokens: int = 32
    """Q."""
    blocks: int = 2
    """Of the fusion, for each of the encoder's layers: 10 altogether."""
    fuse_head: int = 64
    query: int = 2048
    query_heads: int = 32
    query_blocks: int = 10
    cross_head: int = 128
    cross_heads: int = 16

    @staticmethod
    def of(config: Any, features: Features) -> "Sizes":  # noqa: ANN401 - untyped
        """Fit what is added to a base and to what was prepared."""
        layers, _, states = features.face_states_shape
        inner = config.num_attention_heads * config.attention_head_dim
        given = {
            "text": config.text_embed_dim, "states": states, "layers": layers, "inner": inner,
            "face": features.identity_dim + features.face_pooled_dim,
        }  # fmt: skip
        if inner >= _NARROW:
            return Sizes(**given)
        return Sizes(**given, tokens=4, blocks=1, fuse_head=8, query=24, query_heads=2,
                     query_blocks=2, cross_head=8, cross_heads=2)  # fmt: skip


def mapped(of: int, width: int, to: int) -> nn.Sequential:
    """Make the MLP that brings a feature to another width, its norms between its layers."""
    return nn.Sequential(
        nn.Linear(of, width), nn.LayerNorm(width), nn.LeakyReLU(),
        nn.Linear(width, width), nn.LayerNorm(width), nn.LeakyReLU(),
        nn.Linear(width, to),
    )  # fmt: skip


def attended(
    query: Float[Tensor, "B T width"],
    key: Float[Tensor, "B K width"],
    value: Float[Tensor, "B K width"],
    *,
    heads: int,
) -> Float[Tensor, "B T width"]:
    """Attend in torch's own kernel; the original keeps every head's scores for the backward."""
    asked = (query, key, value)
    q, k, v = [each.reshape(*each.shape[:2], heads, -1).transpose(1, 2) for each in asked]
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Speaking(nn.Module):
    """Self-attention of queries and words together."""

    def __init__(self, width: int, head: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        for name in ("to_q", "to_k", "to_v"):
            self.add_module(name, nn.Linear(width, head * heads, bias=False))
        self.to_out = nn.Linear(head * heads, width, bias=False)

    def forward(self, told: Float[Tensor, "B T width"]) -> Float[Tensor, "B T width"]:
        """Return what is added to ``told``."""
        normed = self.norm(told)
        asked = [getattr(self, name)(normed) for name in ("to_q", "to_k", "to_v")]
        out: Tensor = self.to_out(attended(*asked, heads=self.heads))
        return out


class Fusion(nn.Module):
    """MIF: queries that talk with the words about a person, and look at the face.

    A Q-Former over the states of the identity prompt; one layer of the image encoder after the
    other is looked at, each beside the face's vectors.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, self.count, self.blocks = sizes.text, sizes.tokens, sizes.blocks
        attention = (width, sizes.fuse_head, max(1, width // sizes.fuse_head))
        self.latents = nn.Parameter(torch.randn(1, self.count, width) * width**-0.5)
        self.proj_out = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.layers = nn.ModuleList()
        for _ in range(sizes.layers * self.blocks):
            thinking = nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, width, bias=False),
                nn.GELU(),
                nn.Linear(width, width, bias=False),
            )
            parts = nn.ModuleList([Speaking(*attention), ExtractorAttention(*attention)])
            self.layers.append(parts.append(thinking))
        for layer in range(sizes.layers):
            self.add_module(f"mapping_{layer}", mapped(sizes.states, sizes.states, width))
        self.img_embedding_mapping = mapped(sizes.face, sizes.states, width)

    def forward(
        self,
        words: Float[Tensor, "B L E"],
        face: Float[Tensor, "B face"],
        states: Float[Tensor, "B S P V"],
    ) -> Float[Tensor, "B Q E"]:
        """Return tokens of the person, before ``fuse_token_adapter``."""
        known = self.img_embedding_mapping(face)[:, None]
        told = torch.cat([self.latents.expand(len(words), -1, -1), words], dim=1)
        parts: Any = list(self.layers)
        for layer in range(states.shape[1]):
            seen = torch.cat([known, getattr(self, f"mapping_{layer}")(states[:, layer])], dim=1)
            for speaking, looking, thinking in parts[layer * self.blocks :][: self.blocks]:
                told = told + speaking(told)
                told = told + looking(seen, told)
                told = told + thinking(told)
        return told[:, : self.count] @ self.proj_out


class Adapter(nn.Module):
    """What brings the person's tokens among the prompt's; at first they are zeros.

    The original begins at chance, and so tells its base noise beside the prompt.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.feature_mapping = mapped(sizes.text, sizes.text, sizes.text)
        for weight in self.feature_mapping[-1].parameters():
            nn.init.zeros_(weight)

    def forward(self, tokens: Float[Tensor, "B Q E"]) -> Float[Tensor, "B Q E"]:
        """Return tokens of a prompt."""
        adapted: Tensor = self.feature_mapping(tokens)
        return adapted
