"""Proteus-ID's time-aware injection: what of a person is told when, by its published names.

Shapes: B samples; Q learnt queries; T tokens that ask; K tokens that are looked at; P patches of
width V in each of S layers of an image encoder; E the width of text.
"""

from typing import Any

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from jaxtyping import Float, Int64
from torch import Tensor, nn

from training.nets.proteus_fusion import Sizes, attended, mapped


class TimedNorm(nn.Module):
    """A norm that the time shifts and scales; at first by nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)

    def forward(
        self, told: Float[Tensor, "B T width"], time: Float[Tensor, "B 1 width"]
    ) -> Float[Tensor, "B T width"]:
        """Return ``told``, normed as the time says."""
        shift, scale = self.linear(nn.functional.silu(time)).chunk(2, dim=2)
        normed: Tensor = self.norm(told) * (1 + scale) + shift
        return normed


class Attending(nn.Module):
    """torch's ``MultiheadAttention``, by its names.

    Its last layer is called, not only read: ZeRO 3 gathers the weights of what is called.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        nn.init.xavier_uniform_(self.in_proj_weight)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, asking: Float[Tensor, "B T width"], seen: Float[Tensor, "B K width"]
    ) -> Float[Tensor, "B T width"]:
        """Return what ``asking`` finds in ``seen``."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        asked = [
            nn.functional.linear(given, weight, bias)
            for given, weight, bias in zip((asking, seen, seen), weights, biases, strict=True)
        ]
        out: Tensor = self.out_proj(attended(*asked, heads=self.heads))
        return out


class SquaredReLU(nn.Module):
    """max(x, 0) squared, So et al., arXiv:2109.08668."""

    def forward(self, given: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Return it of each number."""
        return given.relu().square()


class TimedBlock(nn.Module):
    """A block of the time-aware resampler: look at the person's tokens, at the face, and think."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn_fuse, self.attn_img = Attending(width, heads), Attending(width, heads)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 2 * width))
        self.mlp.add_module("sq_relu", SquaredReLU())
        self.mlp.add_module("c_proj", nn.Linear(2 * width, width))
        self.ln_1, self.ln_fuse = TimedNorm(width), TimedNorm(width)
        self.ln_2, self.ln_img = TimedNorm(width), TimedNorm(width)
        self.ln_ff = TimedNorm(width)

    def forward(
        self,
        tokens: Float[Tensor, "B Q width"],
        face: Float[Tensor, "B K width"],
        queries: Float[Tensor, "B T width"],
        time: Float[Tensor, "B 1 width"],
    ) -> Float[Tensor, "B T width"]:
        """Return the queries after this block."""
        normed = self.ln_1(queries, time)
        around = torch.cat([normed, self.ln_fuse(tokens, time)], dim=1)
        queries = queries + self.attn_fuse(normed, around)
        normed = self.ln_2(queries, time)
        around = torch.cat([normed, self.ln_img(face, time)], dim=1)
        queries = queries + self.attn_img(normed, around)
        thought: Tensor = queries + self.mlp(self.ln_ff(queries, time))
        return thought


class FaceFeature(nn.Module):
    """The face's vectors as one more patch of the last layer of the image encoder."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.clip_embedding_mapping = mapped(sizes.face, sizes.states, sizes.states)
        self.vit_embedding_mapping = mapped(sizes.states, sizes.states, sizes.query)

    def forward(
        self, face: Float[Tensor, "B face"], patches: Float[Tensor, "B P V"]
    ) -> Float[Tensor, "B K width"]:
        """Return a token per patch, and the vectors' before them."""
        known = self.clip_embedding_mapping(face)[:, None]
        seen: Tensor = self.vit_embedding_mapping(torch.cat([known, patches], dim=1))
        return seen


class Connector(nn.Module):
    """A resampler whose queries and norms the time moves."""

    def __init__(self, sizes: Sizes, out: int) -> None:
        super().__init__()
        width = sizes.query
        self.latents = nn.Parameter(torch.randn(1, sizes.tokens, width) * width**-0.5)
        self.time_aware_linear = nn.Linear(width, width)
        self.proj_fuse, self.proj_img = nn.Linear(sizes.text, width), nn.Linear(width, width)
        blocks = [TimedBlock(width, sizes.query_heads) for _ in range(sizes.query_blocks)]
        self.perceiver_blocks = nn.ModuleList(blocks)
        self.proj_out = nn.Sequential(nn.Linear(width, out), nn.LayerNorm(out))

    def forward(
        self,
        tokens: Float[Tensor, "B Q E"],
        face: Float[Tensor, "B K width"],
        time: Float[Tensor, "B 1 width"],
    ) -> Float[Tensor, "B Q out"]:
        """Return what the queries find."""
        tokens, face = self.proj_fuse(tokens), self.proj_img(face)
        queries = self.latents + self.time_aware_linear(nn.functional.silu(time))
        for block in self.perceiver_blocks:
            queries = block(tokens, face, queries, time)
        found: Tensor = self.proj_out(queries)
        return found


class Injection(nn.Module):
    """TAII: what the blocks are told of the person, which depends on the time of the drawing.

    The original also holds a second set of queries and of projections that nothing reads
    (``latents``, ``proj_out``); they are left out.
    """

    def __init__(self, sizes: Sizes, out: int) -> None:
        super().__init__()
        kind: Any = TimestepEmbedding
        self.position = Timesteps(sizes.inner, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = kind(sizes.inner, sizes.query, act_fn="silu")
        self.fuse_face_feature = FaceFeature(sizes)
        self.connector = Connector(sizes, out)

    def forward(
        self,
        tokens: Float[Tensor, "B Q E"],
        face: Float[Tensor, "B face"],
        states: Float[Tensor, "B S P V"],
        t: Int64[Tensor, " B"],
    ) -> Float[Tensor, "B Q out"]:
        """Return what the cross-attentions read."""
        time = self.time_embedding(self.position(t).to(face))[:, None]
        seen = self.fuse_face_feature(face, states[:, -1])
        injected: Tensor = self.connector(tokens, seen, time)
        return injected
