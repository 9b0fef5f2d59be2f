"""The picture is nearer to whom it should show than to anybody else.

Shapes: B samples.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from training.noise import STEPS
from training.objectives.identity import Seen, see
from training.objectives.step import Comparison, Step, Tools


def triplet(tools: Tools, step: Step) -> Float[Tensor, ""]:
    """Hold the generated face nearer to the target's vector than to another person's.

    L = 1/B sum_i (1 - t_i / T)² max(0, d(E(x0_i), e_i) - d(E(x0_i), n_i) + margin)

    over samples that ``identity`` counts too. e_i is the vector of the photograph itself. n_i is
    ``negative_identity`` of the batch; without it the nearest to the generated face of those
    samples of the microbatch that the encoder tells from e_i, and a sample without any adds 0:
    where no microbatch can have any, ``training.objective.check_company`` refuses this loss.

    References:
        ID-Booth, arXiv:2504.07392: distance 1 - cosine, margin 1, a prior image's vector as the
        negative. Its code weighs the whole batch by the first sample's time, and crops the face
        unaligned; here each sample has its own weight, and faces are aligned by the target's
        landmarks. Distances are those of the loss ``identity``; hard negatives are ours.
    """
    seen = see(tools, step)
    assert tools.identity is not None
    positive = tools.identity.apart(seen.vectors, seen.target)
    negative = _negative(tools.identity, step, seen)
    weight = (1 - step.noised.t[seen.rows] / STEPS).square() * seen.counted
    hinge = (positive - negative + tools.settings.triplet_margin).relu()
    return (hinge * weight).sum() / len(step.pred)


def _negative(people: Comparison, step: Step, seen: Seen) -> Float[Tensor, " seen"]:
    """Return the distance to somebody else; infinite where there is nobody."""
    if "negative_identity" in step.batch:
        return people.apart(seen.vectors, step.batch["negative_identity"][seen.rows])
    everybody = step.batch["target_identity"][None]
    same = people.apart(seen.target[:, None], everybody) < people.same_person_at
    far = people.apart(seen.vectors[:, None], everybody)
    return torch.where(same, torch.inf, far).amin(dim=1)
