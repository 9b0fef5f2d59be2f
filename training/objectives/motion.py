"""Weigh the error by how fast the person moves."""

from jaxtyping import Float
from torch import Tensor

from training.losses import weighted_mean
from training.objectives.step import Step, Tools, needed


def motion(tools: Tools, step: Step) -> Float[Tensor, ""]:
    """Return mean(M * (pred - target)²), where M is ``motion``, 0 to 1 of the clip's own fastest.

    With ``mse`` at 1 and this at lambda the whole is mean((1 + lambda * M) * (pred - target)²).
    A clip in which nobody moves adds nothing; ``still``, the share of such clips, is recorded.

    What differs from the original: there M is the sigmoid of the flow in pixels, at least 0.5 on
    the body and 1 above some 5 px a frame, so that it says where a body is, and not where it
    moves. ``training.video.flow`` divides by the clip's own speed.

    References:
        The adaptive motion learning of Zhang et al., "Proteus-ID", arXiv:2506.23729; lambda 1.

    Raises:
        BadValue: The batch has no ``motion``.
    """
    cure = "prepare the videos with optical flow, or set it to 0."
    map_BTHW = needed(step.batch, "motion", "motion", tools.settings.motion, cure).float()
    squares = (step.pred.float() - step.noised.target.float()).square().mean(dim=1)
    step.record["still"] = (map_BTHW.flatten(1).amax(dim=1) == 0).float().mean()
    return weighted_mean((map_BTHW * squares).flatten(1).mean(dim=1), step.weight)
