"""Drawing latents: DDIM with classifier-free guidance, from noise or from a picture to edit.

Shapes: B samples, C channels, H rows, W columns of latents.
"""

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
from diffusers import DDIMScheduler
from jaxtyping import Float
from torch import Tensor

from infra.errors import BadValue
from training.features import Features
from training.method import Callback, Condition, Random, Sampling, Stopped
from training.noise import NoiseSchedule

Predict = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor]]
"""Given latents (B C H W), their time (a scalar), and whether identity counts yet: the network's
prediction without the condition and with it."""


def first_noise(
    condition: Condition, rng: Random, sampling: Sampling, features: Features
) -> Float[Tensor, "B C H W"]:
    """Draw the noise that pictures begin as, on the generators' device.

    Raises:
        BadValue: There are not as many generators as samples, or the codec cannot make that size.
    """
    count, shape = len(condition.identity), latent_shape(features, sampling.size_px)
    if condition.source is not None:
        shape = (shape[0], *condition.source.shape[2:])
    if isinstance(rng, torch.Generator):
        return torch.randn((count, *shape), generator=rng, device=rng.device)
    if len(rng) != count:
        raise BadValue("rng", f"{len(rng)} generators", f"give one per sample, {count}, or one.")
    return torch.stack([torch.randn(shape, generator=one, device=one.device) for one in rng])


def latent_shape(features: Features, size_px: tuple[int, int] | None) -> tuple[int, int, int]:
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


def draw(
    schedule: NoiseSchedule,
    noise: Float[Tensor, "B C H W"],
    predict: Predict,
    condition: Condition,
    sampling: Sampling,
    callback: Callback | None,
) -> Float[Tensor, "B C H W"]:
    """Go from noise to clean latents.

    An edit begins at its source with as much noise as ``strength`` says; where its mask is 0 the
    source, as noisy as the rest, is put back after every step, as in RePaint (arXiv:2201.09865).

    Raises:
        Stopped: The callback returned True.

    References:
        Song et al., "Denoising Diffusion Implicit Models", arXiv:2010.02502; Ho and Salimans,
        "Classifier-Free Diffusion Guidance", arXiv:2207.12598; trailing times: Lin et al.,
        arXiv:2305.08891.
    """
    # A sampler of this call alone: it holds state.
    make: Any = DDIMScheduler.from_config
    ddim = make(schedule.scheduler.config, timestep_spacing="trailing")
    ddim.set_timesteps(sampling.steps)
    source, mask = condition.source, condition.mask
    skipped, z_t = 0, noise
    if source is not None:
        source = source.to(noise)
        skipped = sampling.steps - max(1, round(sampling.strength * sampling.steps))
        if skipped:
            z_t = ddim.add_noise(source, noise, ddim.timesteps[skipped])
    for step in range(skipped, sampling.steps):
        t = ddim.timesteps[step]
        without, given = predict(z_t, t.to(noise.device), step >= sampling.start_step)
        guided = without + sampling.guidance * (given - without)
        moved = ddim.step(guided, t, z_t)
        z_t = moved.prev_sample
        if source is not None and mask is not None:
            kept, last = source, step + 1 == sampling.steps
            if not last:
                kept = ddim.add_noise(source, noise, ddim.timesteps[step + 1])
            m_B1HW = mask.to(noise)[:, None]
            z_t = m_B1HW * z_t + (1 - m_B1HW) * kept
        if callback is not None and callback(step, moved.pred_original_sample):
            raise Stopped(step)
    return z_t
