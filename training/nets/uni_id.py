"""UniID in a diffusers UNet: identity as words of the prompt, and as keys and values beside it.

Shapes: B samples; F reference faces each; T text tokens of width E.
"""

from typing import Any

import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from jaxtyping import Bool, Float
from torch import Tensor, nn

from infra.errors import BadValue
from training.features import Features
from training.nets.cross_attention import CrossAttention
from training.nets.face_states import Faces, SeenAndKnown, together
from training.nets.faceid import HEAD_DIM, PlusProjection
from training.nets.identity_processor import COPIES

DIM, DEPTH = 768, 6
"""Of the adapter's resampler, as its code has them."""


class Words(nn.Module):
    """The text branch: words made of the vector, which then look at the face's states.

    An MLP and a resampler of depth 4, as in modules/text_branch.py of the original: there one for
    each text encoder of SDXL, here one over both widths together.
    """

    def __init__(self, features: Features, tokens: int, width: int) -> None:
        super().__init__()
        self.features = features
        self.projection = PlusProjection(
            embed_dims=width,
            output_dims=width,
            hidden_dims=features.image_shape[1],
            id_embeddings_dim=features.identity_dim,
            heads=max(1, width // HEAD_DIM),
            dim_head=HEAD_DIM,
            num_tokens=tokens,
        )

    def forward(self, packed: Float[Tensor, "B F values"]) -> Float[Tensor, "B tokens E"]:
        """Return words for all faces of a sample, after one another."""
        return together(self.projection(packed.flatten(0, 1)), packed)


class Tokens(nn.Module):
    """The adapter branch: a resampler over the face's states, which begins by saying nothing.

    Its last projection is zeros, as published, so that a new adapter is the base. The original's
    states are inner ones of its recognition network; see ``SeenAndKnown`` for ours.
    """

    def __init__(self, features: Features, tokens: int, width: int) -> None:
        super().__init__()
        self.features, self.states = features, SeenAndKnown(features)
        make: Any = IPAdapterPlusImageProjection
        heads = max(1, min(DIM, 2 * width) // HEAD_DIM)
        self.resampler: Any = make(
            embed_dims=features.image_shape[1],
            output_dims=width,
            hidden_dims=heads * HEAD_DIM,
            depth=DEPTH,
            heads=heads,
            dim_head=HEAD_DIM,
            num_queries=tokens,
        )
        nn.init.zeros_(self.resampler.proj_out.weight)
        nn.init.zeros_(self.resampler.proj_out.bias)

    def forward(self, packed: Float[Tensor, "B F values"]) -> Float[Tensor, "B tokens E"]:
        """Return tokens for all faces of a sample, after one another."""
        states = self.states(Faces.of(packed, self.features))
        return together(self.resampler(states), packed)


def spoken(
    text: Float[Tensor, "B T E"],
    words: Float[Tensor, "B words E"],
    scale: float,
    present: Bool[Tensor, " B"],
) -> Float[Tensor, "B T E"]:
    """Put words after the prompt's first state, and let as many fall off its end.

    They get the mean norm of the prompt's own states, times ``scale``: the original gives them
    that of celebrities' names, a list that is not published with it.

    Args:
        text: States of the prompt.
        words: Of identity.
        scale: Of their norm.
        present: Which prompts get them; others stay as they are.

    Raises:
        BadValue: There is no place for so many words.
    """
    count = words.shape[1]
    if count + 2 > text.shape[1]:
        raise BadValue(
            "condition.identity",
            f"{count} words of identity",
            f"a prompt has {text.shape[1]} states; show fewer reference faces.",
        )
    norm = text[:, 1:].norm(dim=2).mean(dim=1)[:, None, None]
    said = nn.functional.normalize(words, dim=2) * (scale * norm)
    joined = torch.cat([text[:, :1], said.to(text), text[:, 1:-count]], dim=1)
    return torch.where(present[:, None, None], joined, text)


class UniAdapter(CrossAttention):
    """The adapter branch's keys and values, in diffusers' processors."""

    def __init__(self, unet: Any, reference: str) -> None:  # noqa: ANN401 - untyped
        super().__init__(unet, reference, _processor, COPIES)


def _processor(hidden: int, width: int) -> nn.Module:
    made: nn.Module = IPAdapterAttnProcessor2_0(hidden, width, num_tokens=[1])
    return made
