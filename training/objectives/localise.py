"""Attention to the person stays where the person is.

Shapes: B samples, H rows, W columns of latents.
"""

from jaxtyping import Float
from torch import Tensor

from training.objectives.regions import resized
from training.objectives.step import Step, Tools

_EPS = 1e-5


def localise(_: Tools, step: Step) -> Float[Tensor, ""]:
    """Move cross-attention to identity tokens from outside the mask to its inside.

    L = mean over layers and objects of [sum(A (1 - M)) / sum(1 - M) - sum(A M) / sum(M)]

    of samples whose identity was given, over B. A is the share of cross-attention that an object's
    tokens have at each pixel; M the face mask, or each part's own. It is -1 where all attention
    inside goes to the object and none outside. An object that is nowhere in the picture adds 0.

    References:
        FastComposer, arXiv:2305.10431, its BalancedL1Loss, with weight 0.001 on the middle five of
        seven stages; ConsistentID, arXiv:2404.16771, whose code takes the probabilities from
        self-attention, where a token's number is a pixel's. Ours are of cross-attention, and with
        decoupled attention of a softmax over text and identity together (``Told.of_identity``).
        Masks are resized by area instead of bilinearly, so that no part of them is skipped.
    """
    terms = []
    for shares in step.attention.values():
        rows, columns = shares.shape[1:3]
        regions = step.regions if step.regions is not None else step.batch["mask"][:, None]
        inside = resized(regions, rows, columns).permute(0, 2, 3, 1)
        outside = 1 - inside
        balanced = (shares * outside).sum((1, 2)) / (outside.sum((1, 2)) + _EPS)
        balanced = balanced - (shares * inside).sum((1, 2)) / (inside.sum((1, 2)) + _EPS)
        there = inside.sum((1, 2)) > 0
        terms.append((balanced * there).mean(dim=1))
    per_sample: Tensor = sum(terms, start=step.pred.new_zeros(())) / len(terms)
    return (per_sample * step.asked).mean()
