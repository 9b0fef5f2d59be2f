"""What an identity vector becomes before a network sees it.

Shapes: B samples, F reference faces each, D the vector's dimension.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from training.features import Features

Norm = Literal["raw", "unit", "standard"]


def normalised(
    identity: Float[Tensor, "B *F D"], norm: Norm, features: Features
) -> Float[Tensor, "B *F D"]:
    """Bring raw vectors to the form that ``MethodSettings.identity_norm`` names.

    The corpus' mean and deviation are no buffers of a module: who casts the module to bfloat16
    would round them too.
    """
    if norm == "unit":
        return nn.functional.normalize(identity, dim=-1)
    if norm == "standard":
        mean = identity.new_tensor(features.identity_mean)
        std = identity.new_tensor(features.identity_std)
        return (identity - mean) / std.clamp(min=1e-6)
    return identity


class IdentityTokens(nn.Module):
    """Turn an identity vector into tokens that cross-attention can ask."""

    def __init__(self, features: Features, tokens: int, dim: int, norm: Norm) -> None:
        super().__init__()
        self.features, self.tokens, self.dim, self.norm = features, tokens, dim, norm
        inner = 2 * max(features.identity_dim, dim)
        self.net = nn.Sequential(
            nn.Linear(features.identity_dim, inner), nn.GELU(), nn.Linear(inner, tokens * dim)
        )
        self.last = nn.LayerNorm(dim)

    def forward(
        self, identity: Float[Tensor, "B D"], present: Float[Tensor, " B"]
    ) -> Float[Tensor, "B tokens width"]:
        """Project raw vectors; where ``present`` is 0 the identity is left out."""
        projected = self.net(normalised(identity, self.norm, self.features) * present[:, None])
        tokens: Tensor = self.last(projected.view(-1, self.tokens, self.dim))
        return tokens
