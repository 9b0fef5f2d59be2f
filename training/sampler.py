"""Drawing latents: DDIM with classifier-free guidance, from noise or from a picture to edit.

Shapes: B samples, C channels, T frames of videos, H rows, W columns of latents.
"""

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
from diffusers import DDIMScheduler
from jaxtyping import Float, Int64
from torch import Tensor

from infra.errors import BadValue
from training.features import Features
from training.method import Callback, Condition, Random, Sampling, Stopped
from training.noise import NoiseSchedule, correlated

Predict = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor]]
"""Given latents (B C *T H W), their time (a scalar), and whether identity counts yet: the network's
prediction without the condition and with it."""


def first_noise(
    condition: Condition,
    rng: Random,
    sampling: Sampling,
    features: Features,
    correlation: float = 0.0,
) -> Float[Tensor, "B C *T H W"]:
    """Draw the noise that pictures or videos begin as, on the generators' device.

    Args:
        condition: Says how many, and of an edit how large.
        rng: Draws.
        sampling: Says how large, and of videos how long.
        features: As prepared.
        correlation: Of videos; see ``training.noise.correlated``.

    Raises:
        BadValue: There are not as many generators as samples, or the codec cannot make that size.
    """
    count, shape = len(condition.identity), latent_shape(features, sampling.size_px)
    if condition.source is not None:
        shape = (shape[0], *condition.source.shape[2:])
    elif features.frames:
        shape = (shape[0], sampling.frames or features.frames, *shape[1:])
    if isinstance(rng, torch.Generator):
        noise = torch.randn((count, *shape), generator=rng, device=rng.device)
    elif len(rng) == count:
        drawn = [torch.randn(shape, generator=one, device=one.device) for one in rng]
        noise = torch.stack(drawn)
    else:
        raise BadValue("rng", f"{len(rng)} generators", f"give one per sample, {count}, or one.")
    return correlated(noise, correlation) if correlation else noise


def latent_shape(features: Features, size_px: tuple[int, int] | None) -> tuple[int, ...]:
    """Return channels, rows and columns of the latents of a picture's height and width.

    Raises:
        BadValue: A side is no multiple of what one latent stands for.
    """
    channels, rows, columns = features.latent_shape
    if size_px is None:
        return channels, rows, columns
    each_px = latent_px(features)
    if min(size_px) < each_px or any(side % each_px for side in size_px):
        raise BadValue("sampling.size_px", size_px, f"give multiples of {each_px}.")
    return channels, size_px[0] // each_px, size_px[1] // each_px


def latent_px(features: Features) -> int:
    """Return the pixels of a picture's side that one latent stands for."""
    _, rows, columns = features.latent_shape
    return round(features.image_px / sqrt(rows * columns))


class Steps:
    """The steps of one drawing, each by itself: it can stop and go on between any two.

    Attributes:
        times: Of the schedule, falling; one per step.

    References:
        Song et al., "Denoising Diffusion Implicit Models", arXiv:2010.02502; Ho and Salimans,
        "Classifier-Free Diffusion Guidance", arXiv:2207.12598; trailing times: Lin et al.,
        arXiv:2305.08891.
    """

    def __init__(self, schedule: NoiseSchedule, sampling: Sampling) -> None:
        # A sampler of this drawing alone: it holds state.
        make: Any = DDIMScheduler.from_config
        self._ddim = make(schedule.scheduler.config, timestep_spacing="trailing")
        self._ddim.alphas_cumprod = schedule.alphas_cumprod
        self._ddim.set_timesteps(sampling.steps)
        self._sampling = sampling
        self.times: Int64[Tensor, " steps"] = self._ddim.timesteps

    def noisy(
        self, source: Float[Tensor, "B C *T H W"], noise: Float[Tensor, "B C *T H W"], step: int
    ) -> Float[Tensor, "B C *T H W"]:
        """Return clean latents as noisy as they are before a step."""
        noised: Tensor = self._ddim.add_noise(source, noise, self.times[step])
        return noised

    def take(
        self, step: int, z_t: Float[Tensor, "B C *T H W"], predict: Predict
    ) -> tuple[Float[Tensor, "B C *T H W"], Float[Tensor, "B C *T H W"]]:
        """Return the latents after a step, and the estimate of the clean ones."""
        t = self.times[step]
        without, given = predict(z_t, t.to(z_t.device), step >= self._sampling.start_step)
        guided = without + self._sampling.guidance * (given - without)
        moved = self._ddim.step(guided, t, z_t)
        return moved.prev_sample, moved.pred_original_sample


def draw(
    schedule: NoiseSchedule,
    noise: Float[Tensor, "B C *T H W"],
    predict: Predict,
    condition: Condition,
    sampling: Sampling,
    callback: Callback | None,
) -> Float[Tensor, "B C *T H W"]:
    """Go from noise to clean latents.

    An edit begins at its source with as much noise as ``strength`` says; where its mask is 0 the
    source, as noisy as the rest, is put back after every step, as in RePaint (arXiv:2201.09865).

    Raises:
        Stopped: The callback returned True.
    """
    steps = Steps(schedule, sampling)
    source, mask = condition.source, condition.mask
    skipped, z_t = 0, noise
    if source is not None:
        source = source.to(noise)
        skipped = sampling.steps - max(1, round(sampling.strength * sampling.steps))
        if skipped:
            z_t = steps.noisy(source, noise, skipped)
    for step in range(skipped, sampling.steps):
        z_t, clean = steps.take(step, z_t, predict)
        if source is not None and mask is not None:
            kept, last = source, step + 1 == sampling.steps
            if not last:
                kept = steps.noisy(source, noise, step + 1)
            m_B1HW = mask.to(noise)[:, None]
            z_t = m_B1HW * z_t + (1 - m_B1HW) * kept
        if callback is not None and callback(step, clean):
            raise Stopped(step)
    return z_t
