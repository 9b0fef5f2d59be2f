"""The noise of diffusion training: schedules, targets, clean estimates, weights.

Shapes: B samples, C channels, H rows, W columns of latents.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler
from jaxtyping import Float, Int64
from torch import Tensor

from infra.errors import BadValue
from infra.weights import locate
from training.settings import BaseModelSettings

STEPS = 1000


def check_base(settings: BaseModelSettings) -> None:
    """See that a base is named, and asked what it was trained to answer.

    A diffusers folder says it in ``scheduler/``, beside the network's; where it does not, the
    settings are believed.

    Raises:
        BadValue: No base is named, or its folder says another prediction or schedule, or that it
            needs identity to draw anything.
    """
    if not settings.weights:
        raise BadValue(
            "base.weights", "", "name the base: file:<run>/step-<number>/export of a `base` run."
        )
    if not settings.weights.startswith("file:"):
        return
    folder = locate(settings.weights)
    if not (folder / "unet").is_dir():
        folder = folder.parent
    export = _json(folder / "config.json")
    if export.get("kind") == "base" and export["recipe"]["method"]["condition"] == "identity":
        raise BadValue(
            "base.weights",
            settings.weights,
            "it learnt identity itself; give a base that learnt faces only, as `lfw64_base` does.",
        )
    path = folder / "scheduler/scheduler_config.json"
    told = _json(path)
    if not told:
        return
    for name, default in (("prediction", "epsilon"), ("beta_schedule", "linear")):
        theirs = told.get("prediction_type" if name == "prediction" else name, default)
        ours = getattr(settings, name)
        if theirs != ours:
            raise BadValue(f"base.{name}", ours, f"{path} says {theirs!r}; set it to that.")


def _json(path: Path) -> dict[str, Any]:
    """Read an object in JSON; nothing where there is none."""
    held = json.loads(path.read_text()) if path.is_file() else {}
    return held if isinstance(held, dict) else {}


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

    def moved(
        self,
        z_t: Float[Tensor, "B C H W"],
        t: Int64[Tensor, " B"],
        clean: Float[Tensor, "B C H W"],
        to: Int64[Tensor, " B"],
    ) -> Float[Tensor, "B C H W"]:
        """Take noisy latents from one time to another by DDIM's rule, arXiv:2010.02502, eta 0."""
        there, here = self._at(to, z_t), self._at(t, z_t)
        noise = (z_t - here.sqrt() * clean) / (1 - here).sqrt()
        return there.sqrt() * clean + (1 - there).sqrt() * noise

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
