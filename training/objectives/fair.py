"""The adapter changes the face, and leaves the rest to the base.

Shapes: B samples; N pixels of a layer.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from training.nets.attention_maps import as_picture
from training.objectives.regions import resized
from training.objectives.step import Step, Tools

_EPS = 1e-6


def fair(_: Tools, step: Step) -> Float[Tensor, ""]:
    """Shrink what the adapter adds outside the face.

    L = mean over layers of ||r (1 - M)|| / ||x (1 - M)||

    of samples whose identity was given, over B; r is what the adapter adds to a layer's hidden
    states x, M the face mask. A picture that is all face adds 0.

    References:
        FaceChain-FACT, arXiv:2410.12312: r is its gated self-attention's, weight about 0.01 (the
        released model's name says 001). Training code was not published: norms are over pixels and
        channels of a sample, and no gradient goes to x, which could make the share small by
        growing. For adapters with decoupled attention r is the identity branch's output.
    """
    height, width = step.noised.z_t.shape[2:]
    terms = []
    for added, stream in step.residuals.values():
        there, states = (as_picture(each, height, width) for each in (added, stream))
        outside = 1 - resized(step.batch["mask"][:, None], *there.shape[1:3])[:, 0, ..., None]
        reach, whole = (
            torch.linalg.vector_norm(each.float() * outside, dim=(1, 2, 3))
            for each in (there, states.detach())
        )
        terms.append(reach / (whole + _EPS))
    per_sample: Tensor = sum(terms, start=step.pred.new_zeros(())) / len(terms)
    return (per_sample * step.asked).mean()
