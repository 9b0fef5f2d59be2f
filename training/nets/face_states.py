"""A reference face's prepared features, apart again: who it is, and how it looks.

Shapes: B samples, F reference faces each, D identity, P patches of width W.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infra.errors import BadValue
from training.features import Features


@dataclass(frozen=True)
class Faces:
    """Reference faces, those of one sample after one another."""

    identity: Float[Tensor, "faces D"]
    image: Float[Tensor, "faces P W"]

    @staticmethod
    def of(packed: Float[Tensor, "B F values"], features: Features) -> "Faces":
        """Take apart what ``training.methods.faceid_conditions.Given.faces`` holds."""
        rows = packed.flatten(0, 1)
        dim = features.identity_dim
        return Faces(rows[:, :dim], rows[:, dim:].reshape(len(rows), *features.image_shape))


def together(
    tokens: Float[Tensor, "faces T E"], packed: Float[Tensor, "B F values"]
) -> Float[Tensor, "B tokens E"]:
    """Put the tokens of all faces of a sample after one another."""
    return tokens.reshape(len(packed), -1, tokens.shape[2])


class SeenAndKnown(nn.Module):
    """The image's states with the identity vector, projected to their width, as one more.

    What takes the place of a recognition network's inner states, which are not prepared: a vector
    that knows who it is, and states that see how.
    """

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.known = nn.Linear(features.identity_dim, features.image_shape[1])

    def forward(self, faces: Faces) -> Float[Tensor, "faces states W"]:
        """Return P + 1 states for each face."""
        return torch.cat([faces.image, self.known(faces.identity)[:, None]], dim=1)


def check_image(features: Features, kind: str) -> None:
    """See that a method that looks at reference faces has something to look at.

    Raises:
        BadValue: No image states were prepared.
    """
    if not features.image_shape[0]:
        raise BadValue(
            "method.kind", kind, "prepare the features with an image encoder: it looks at faces."
        )
