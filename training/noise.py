"""The noise of diffusion training: schedules, targets, clean estimates, weights.

Shapes: B samples, C channels, T frames of videos, H rows, W columns of latents.
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


_SAID = (
    ("prediction", "prediction_type", "epsilon"),
    ("beta_schedule", "beta_schedule", "linear"),
    ("zero_snr", "rescale_betas_zero_snr", False),
    ("snr_shift", "snr_shift_scale", 1.0),
)
"""Settings of the base, what a scheduler's file calls them, and what it means by silence."""


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
    if not any((folder / network).is_dir() for network in ("unet", "transformer")):
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
    for name, said, default in _SAID:
        theirs, ours = told.get(said, default), getattr(settings, name)
        if theirs != ours:
            raise BadValue(f"base.{name}", ours, f"{path} says {theirs!r}; set it to that.")


def _json(path: Path) -> dict[str, Any]:
    """Read an object in JSON; nothing where there is none."""
    held = json.loads(path.read_text()) if path.is_file() else {}
    return held if isinstance(held, dict) else {}


@dataclass(frozen=True)
class Noised:
    """One noising step of a microbatch."""

    z_t: Float[Tensor, "B C *T H W"]
    t: Int64[Tensor, " B"]
    target: Float[Tensor, "B C *T H W"]
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
        # CogVideoX (arXiv:2408.06072) adds more noise, up to nothing but noise at the last time.
        alphas, shift = self.scheduler.alphas_cumprod, settings.snr_shift
        alphas = alphas / (shift + (1 - shift) * alphas)
        if settings.zero_snr:
            alphas = _without_signal_at_last(alphas)
        self.alphas_cumprod: Float[Tensor, " times"] = alphas

    def noised(
        self,
        latents: Float[Tensor, "B C *T H W"],
        noise: Float[Tensor, "B C *T H W"],
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
        self,
        z_t: Float[Tensor, "B C *T H W"],
        t: Int64[Tensor, " B"],
        pred: Float[Tensor, "B C *T H W"],
    ) -> Float[Tensor, "B C *T H W"]:
        """Estimate the clean latents in one step from a prediction."""
        alpha_bar = self._at(t, z_t)
        signal, spread = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        if self.prediction == "epsilon":
            return (z_t - spread * pred) / signal
        return signal * z_t - spread * pred

    def moved(
        self,
        z_t: Float[Tensor, "B C *T H W"],
        t: Int64[Tensor, " B"],
        clean: Float[Tensor, "B C *T H W"],
        to: Int64[Tensor, " B"],
    ) -> Float[Tensor, "B C *T H W"]:
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
        self, t: Int64[Tensor, " B"], like: Float[Tensor, "B C *T H W"]
    ) -> Float[Tensor, "B ..."]:
        return self.alphas_cumprod.to(like.device, torch.float32)[t].view(
            -1, *[1] * (like.ndim - 1)
        )


def correlated(
    noise: Float[Tensor, "*B C T H W"], correlation: float
) -> Float[Tensor, "*B C T H W"]:
    """Make the noise of frames alike: by ``correlation`` to the power of how far they are apart.

    Each frame's noise stays standard normal. 0 changes nothing.

    References:
        The noise prior of Magic-Me (arXiv:2402.09368), which only draws with it.
    """
    if correlation == 0:
        return noise
    at = torch.arange(noise.shape[-3], dtype=torch.float64)
    mix = torch.linalg.cholesky(correlation ** (at[:, None] - at).abs()).to(noise)
    return torch.einsum("ts,...schw->...tchw", mix, noise.movedim(-3, -4)).movedim(-4, -3)


def _without_signal_at_last(alphas: Float[Tensor, " times"]) -> Float[Tensor, " times"]:
    """Shift and scale a schedule so that its last time is noise alone.

    References:
        Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed",
        arXiv:2305.08891, algorithm 1.
    """
    roots = alphas.sqrt()
    first, last = roots[0], roots[-1]
    return ((roots - last) * first / (first - last)).square()
