"""The noise of diffusion training: schedules, targets, clean estimates, weights.

Shapes: B samples, C channels, H rows, W columns of latents.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import DDPMScheduler
from jaxtyping import Float, Int64
from torch import Tensor

from training.recipes import BaseModelSettings

STEPS = 1000


@dataclass(frozen=True)
class Noised:
    """One noising step of a microbatch."""

    z_t: Float[Tensor, "B C H W"]
    t: Int64[Tensor, " B"]
    target: Float[Tensor, "B C H W"]
    """What the network should predict."""
    snr: Float[Tensor, " B"]
    """Signal-to-noise ratio, alphas_cumprod / (1 - alphas_cumprod)."""


class NoiseSchedule:
    """How noise is added at each of 1,000 times, and what the network is asked of it."""

    def __init__(self, settings: BaseModelSettings) -> None:
        self.prediction: Literal["epsilon", "v_prediction"] = settings.prediction
        self.scheduler = DDPMScheduler(
            num_train_timesteps=STEPS,
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule=settings.beta_schedule,
            prediction_type=settings.prediction,
            clip_sample=False,
        )
        self.alphas_cumprod: Float[Tensor, " times"] = self.scheduler.alphas_cumprod

    def noised(
        self,
        latents: Float[Tensor, "B C H W"],
        noise: Float[Tensor, "B C H W"],
        time: Float[Tensor, " B"],
    ) -> Noised:
        """Add ``noise`` at the times that ``time``, in 0 to 1, stands for."""
        t = (time * STEPS).long().clamp(0, STEPS - 1)
        alpha_bar = self._at(t, latents)
        signal, spread = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        target = noise if self.prediction == "epsilon" else signal * noise - spread * latents
        snr = (alpha_bar / (1 - alpha_bar)).flatten()
        return Noised(signal * latents + spread * noise, t, target, snr)

    def clean(
        self, z_t: Float[Tensor, "B C H W"], t: Int64[Tensor, " B"], pred: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """Estimate the clean latents in one step from a prediction."""
        alpha_bar = self._at(t, z_t)
        signal, spread = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        if self.prediction == "epsilon":
            return (z_t - spread * pred) / signal
        return signal * z_t - spread * pred

    def weight(self, snr: Float[Tensor, " B"], gamma: float) -> Float[Tensor, " B"]:
        """Weigh samples by their clipped signal-to-noise ratio; 1 where ``gamma`` is 0.

        References:
            Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy",
            arXiv:2303.09556: min(snr, gamma) / snr for noise, / (snr + 1) for velocity.
        """
        if gamma == 0:
            return torch.ones_like(snr)
        return snr.clamp(max=gamma) / (snr if self.prediction == "epsilon" else snr + 1)

    def _at(
        self, t: Int64[Tensor, " B"], like: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B 1 1 1"]:
        return self.alphas_cumprod.to(like.device, torch.float32)[t].view(-1, 1, 1, 1)
