"""Two photographs of one person give one embedding, without redundancy.

Shapes: B samples; D numbers of a projected embedding.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infra.errors import BadValue
from training.objectives.step import Step, Tools

OFF_DIAGONAL = 0.005
"""Barlow Twins' lambda."""
PROJECTED = 128
_EPS = 1e-5


def decorrelate(tools: Tools, step: Step) -> Float[Tensor, ""]:
    """Bring the cross-correlation of two photographs' embeddings to the identity matrix.

    L = 1/D [sum_i (1 - C_ii)² + 0.005 sum_(i != j) C_ij²], C = corr(P(f(reference)), P(f(target)))

    f is the mean of the identity tokens that the method makes of a vector, P a projection that is
    trained with it and dropped after. The correlation is over the samples of the microbatch: give
    a large one. Both twins are told the one ``image`` that a batch has, so a method whose tokens
    follow from that alone is refused: it would be shown a photograph and itself.

    References:
        Zbontar et al., "Barlow Twins", arXiv:2103.03230. The twins are two photographs of a person
        instead of two distortions of one; the projection has two layers of 128 instead of three of
        8,192, and the sum is divided by D, so that weights do not depend on it.

    Raises:
        BadValue: A microbatch is of one sample.
    """
    if len(step.pred) == 1:
        raise BadValue(
            "losses.decorrelate",
            tools.settings.decorrelate,
            "it compares samples of a microbatch; set microbatch to 2 or more.",
        )
    assert step.embed is not None
    twins = (step.batch, {**step.batch, "identity": step.batch["target_identity"]})
    projection = tools.networks["decorrelate"]
    one, other = (projection(step.embed(batch).mean(dim=1)) for batch in twins)
    return barlow_twins(one, other)


def barlow_twins(one: Float[Tensor, "B D"], other: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """Return Barlow Twins' loss of two sets of embeddings, divided by their width."""
    correlation_DD = _standardised(one).T @ _standardised(other) / len(one)
    on = torch.diagonal(correlation_DD)
    off = correlation_DD.square().sum() - on.square().sum()
    return ((1 - on).square().sum() + OFF_DIAGONAL * off) / len(on)


def make_projection(tools: Tools) -> nn.Module:
    """Make the projection of the embedding."""
    return nn.Sequential(
        nn.Linear(tools.gives.embed, PROJECTED), nn.ReLU(), nn.Linear(PROJECTED, PROJECTED)
    )


def _standardised(vectors: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    vectors = vectors.float() - vectors.float().mean(dim=0)
    return vectors / (vectors.square().mean(dim=0) + _EPS).sqrt()
