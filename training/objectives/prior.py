"""The class that a subject is of is not forgotten.

Shapes: B samples.
"""

from jaxtyping import Float
from torch import Tensor

from training.losses import mse, weighted_mean
from training.objectives.step import Step, Tools, needed


def prior(tools: Tools, step: Step) -> Float[Tensor, ""]:
    """Return the MSE of the samples that show the class, flagged ``is_prior``.

    L = 1/B sum_i w_i [i shows the class] MSE_i

    The other losses do not count these samples. Both are over all B, so that microbatches of any
    make-up average to the batch: with half of the samples of the class, as in DreamBooth, subject
    and class weigh as 1 to ``losses.prior``.

    References:
        Ruiz et al., "DreamBooth", arXiv:2208.12242, equation 2; weight 1.

    Raises:
        BadValue: The batch flags no samples.
    """
    weight = tools.settings.prior
    cure = "give data.subject and data.prior_share with it, or set it to 0."
    of_class = needed(step.batch, "is_prior", "prior", weight, cure).float()
    clipped = tools.schedule.weight(step.noised.snr, tools.settings.min_snr_gamma)
    return weighted_mean(mse(step.pred, step.noised.target), clipped * of_class)
