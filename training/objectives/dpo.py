"""Which of two pictures or videos is the better one? Losses over pairs.

Shapes: B pairs, C channels, T frames of videos, H rows, W columns of latents.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from training.losses import mse
from training.objectives.step import Step, Tools, needed

_CURE = (
    "make preferences.parquet beside the features with training.preferences.write_preferences, or "
    "set it to 0."
)


def dpo(tools: Tools, step: Step) -> Float[Tensor, ""]:
    """Prefer each pair's winner to its loser, as compared with the frozen base.

    L = -1/B sum_i log sigmoid(h_i),
    h = -beta/2 [(|e - e_th|²_w - |e - e_ref|²_w) - (|e - e_th|²_l - |e - e_ref|²_l)]

    Winner w (``latents``) and loser l (``loser_latents``) have one noise, one time and one set of
    conditions. |.|² is the mean over a sample, of noise or of velocity as the base predicts it;
    beta is ``dpo_beta``, which holds the number of times too, so that thousands are usual. The
    reference is the base without the adapter. The network is asked three times more, twice of it
    without gradients. Pairs whose identity or text was dropped count nothing: the pair would be
    judged on a condition that it was not drawn for.

    Recorded: ``dpo_accuracy``, the share of the counted pairs whose h is above 0, 1/2 where it is
    0; ``dpo_gap``, the mean of h.

    References:
        Wallace et al., "Diffusion Model Alignment Using Direct Preference Optimization",
        arXiv:2311.12908, equation 14, and its train.py (2000 for Stable Diffusion 1.5, 5000 for
        SDXL). There the reference is a second copy of the network.

    Raises:
        BadValue: The batch has no losers.
    """
    h_B, counts_B = _preferred(tools, step, "dpo")
    return -(nn.functional.logsigmoid(h_B) * counts_B).mean()


def ipo(tools: Tools, step: Step) -> Float[Tensor, ""]:
    """Prefer each pair's winner by just so much, which no certain pair can exceed for free.

    L = 1/B sum_i (h_i - 1/2)², with h of ``dpo``.

    References:
        Azar et al., "A General Theoretical Paradigm to Understand Learning from Human
        Preferences", arXiv:2310.12036: (h/beta - 1/(2 beta))², here times beta², which leaves the
        minimum where it is and keeps gradients of the size of ``dpo``'s. What stands for the
        log-ratio is Diffusion-DPO's bound, as in ``dpo``.

    Raises:
        BadValue: The batch has no losers.
    """
    h_B, counts_B = _preferred(tools, step, "ipo")
    return ((h_B - 0.5).square() * counts_B).mean()


def _preferred(
    tools: Tools, step: Step, loss: str
) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
    """Return h of each pair, and which pairs count; computed once for both losses."""
    batch, ask = step.batch, step.ask
    loser = needed(batch, "loser_latents", loss, getattr(tools.settings, loss), _CURE)
    if "preferred" not in step.held:
        assert ask is not None
        won, lost = step.noised, tools.schedule.noised(loser, batch["noise"], batch["time"])
        lost_pred = ask(z_t=lost.z_t, t=lost.t)
        lost_base = ask(z_t=lost.z_t, t=lost.t, base=True)
        gain_w = mse(step.pred, won.target) - mse(ask(base=True), won.target)
        gain_l = mse(lost_pred, lost.target) - mse(lost_base, lost.target)
        h_B = -0.5 * tools.settings.dpo_beta * (gain_w - gain_l)
        counts_B = step.asked if step.prompted is None else step.asked & step.prompted
        _tell(step, h_B.detach(), counts_B)
        step.held["preferred"] = h_B, counts_B
    held: tuple[Tensor, Tensor] = step.held["preferred"]
    return held


def _tell(step: Step, h_B: Float[Tensor, " B"], counts_B: Bool[Tensor, " B"]) -> None:
    many = counts_B.sum().clamp(min=1)
    right_B = (h_B > 0).float() + 0.5 * (h_B == 0).float()
    step.record["dpo_accuracy"] = torch.where(counts_B, right_B, 0.0).sum() / many
    step.record["dpo_gap"] = torch.where(counts_B, h_B, 0.0).sum() / many
