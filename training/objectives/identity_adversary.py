"""What is not the face tells nobody who it is.

Shapes: B samples, C channels, H rows, W columns of latents; D identity.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.nets.identity_tokens import normalised
from training.objectives.regions import resized
from training.objectives.step import ENOUGH_SIGNAL, Step, Tools, signal

GRID = 4
"""The background is read as so many cells squared."""
_INNER = 256


def identity_adversary(tools: Tools, step: Step) -> Float[Tensor, ""]:
    """Let an adversary read the person from the rest, and make the rest unreadable.

    L = 1/B sum_i [1 - cos(A(R(f_i)), e_i)]

    A is trained to lower it. R gives back f and turns its gradient round, so that the same step of
    the same optimiser makes the method raise it: no second optimiser, no turns. f is what the
    method learns of a picture beside the person (the mean of its ``rest`` tokens), if it learns
    that; else the one-step clean latents outside the face, of samples that are more signal than
    noise. e is the target's vector, standardised by the corpus: at 1 the adversary knows nothing.

    References:
        Identity adversarial training of FMAE-IAT, arXiv:2407.11243, after Ganin and Lempitsky,
        arXiv:1409.7495. The original classifies identities of a closed set; a vector serves people
        that were never seen, and the cosine bounds what the method can gain.
    """
    if step.rest is not None:
        features, counts = step.rest.float().mean(dim=1), step.asked
    else:
        features = _background(tools, step)
        counts = step.asked & (signal(step.noised) > ENOUGH_SIGNAL)
    guessed = tools.networks["identity_adversary"](reversed_gradient(features))
    whose = normalised(step.batch["target_identity"], "standard", tools.features)
    away = 1 - nn.functional.cosine_similarity(guessed.float(), whose.float(), dim=1)
    return (away * counts).mean()


def make_adversary(tools: Tools) -> nn.Module:
    """Make the network that guesses a vector."""
    width = tools.gives.rest or tools.features.latent_shape[0] * GRID * GRID
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, _INNER),
        nn.GELU(),
        nn.Linear(_INNER, tools.features.identity_dim),
    )


def _background(tools: Tools, step: Step) -> Float[Tensor, "B values"]:
    """Return what the clean estimates are outside the face, cell by cell."""
    clean = tools.clean(step.noised.z_t, step.noised.t, step.pred)
    outside = 1 - resized(step.batch["mask"][:, None], *clean.shape[2:])
    return nn.functional.adaptive_avg_pool2d(clean * outside, GRID).flatten(1)


class _Reversal(torch.autograd.Function):
    """Give back what comes in; turn the gradient round."""

    @staticmethod
    def forward(_: Any, features: Tensor) -> Tensor:  # noqa: ANN401 - autograd's context
        return features.view_as(features)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401 - autograd's context
        return -gradients[0]


def reversed_gradient(features: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the same, whose gradient arrives with the other sign."""
    reversed_: Tensor = _Reversal.apply(features)  # type: ignore[no-untyped-call]
    return reversed_
