"""The objective: what a prediction costs, term by term.

A loss is a function of one step, named in ``LOSSES``; its weight is the field of that name in
``LossSettings``. Shapes: B samples, C channels, H rows, W columns of latents.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from training.features import Features
from training.losses import masked, mse, weighted_mean
from training.method import Batch
from training.nets.codec import Codec, decoded
from training.noise import Noised, NoiseSchedule
from training.settings import LossSettings

ENOUGH_SIGNAL = 0.5
"""Share of a noisy latent's variance that must be signal for its clean estimate to show anybody."""


@dataclass(frozen=True)
class Step:
    """All that a loss may look at."""

    pred: Float[Tensor, "B C H W"]
    noised: Noised
    batch: Batch
    asked: Bool[Tensor, " B"]
    """Whose identity was given, not dropped."""
    weight: Float[Tensor, " B"]
    """By signal-to-noise ratio; see ``NoiseSchedule.weight``."""


class Objective(nn.Module):
    """The weighted sum of the losses that a recipe asks for."""

    def __init__(
        self, settings: LossSettings, schedule: NoiseSchedule, codec: Codec, features: Features
    ) -> None:
        super().__init__()
        self.settings, self.schedule = settings, schedule
        # Not a submodule a second time: the codec is the method's.
        object.__setattr__(self, "codec", codec)
        self.codec: Codec
        self.identity_loss: nn.Module | None = None
        if settings.identity > 0:
            # Only here: it brings the identity network.
            from training.identity import IdentityLoss, differentiable_encoder

            self.identity_loss = IdentityLoss(differentiable_encoder(features.backend))

    def forward(
        self,
        pred: Float[Tensor, "B C H W"],
        noised: Noised,
        batch: Batch,
        asked: Bool[Tensor, " B"],
    ) -> dict[str, Tensor]:
        """Return ``loss`` and its terms; ``mse`` is told even where it weighs nothing."""
        weight = self.schedule.weight(noised.snr, self.settings.min_snr_gamma)
        step = Step(pred, noised, batch, asked, weight)
        weights = {name: float(getattr(self.settings, name)) for name in LOSSES}
        terms = {
            name: loss(self, step)
            for name, loss in LOSSES.items()
            if weights[name] > 0 or name == "mse"
        }
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return {"loss": total, **{name: term.detach() for name, term in terms.items()}}


def _mse(_: Objective, step: Step) -> Float[Tensor, ""]:
    return weighted_mean(mse(step.pred, step.noised.target), step.weight)


def _masked(_: Objective, step: Step) -> Float[Tensor, ""]:
    return weighted_mean(masked(step.pred, step.noised.target, step.batch["mask"]), step.weight)


def _identity(objective: Objective, step: Step) -> Float[Tensor, ""]:
    """Compare the one-step clean picture's person with the target's, weighed by its signal.

    A noisy estimate shows nobody, and without identity nobody was asked for: only the other
    samples are decoded and embedded, which is most of this loss's price.
    """
    assert objective.identity_loss is not None
    signal_B = step.noised.snr / (1 + step.noised.snr)
    counts_B = (signal_B > ENOUGH_SIGNAL) & step.asked
    if not counts_B.any():
        return step.pred.new_zeros(())
    noised = step.noised
    clean = objective.schedule.clean(noised.z_t[counts_B], noised.t[counts_B], step.pred[counts_B])
    far = objective.identity_loss(
        decoded(objective.codec, clean),
        step.batch["landmarks"][counts_B],
        step.batch["target_identity"][counts_B],
    )
    term: Tensor = (far * signal_B[counts_B]).sum() / len(signal_B)
    return term


LOSSES: dict[str, Callable[[Objective, Step], Tensor]] = {
    "mse": _mse,
    "masked": _masked,
    "identity": _identity,
}
