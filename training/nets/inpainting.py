"""What an inpainting UNet is told of the picture around the hole.

Shapes: B samples, C channels, H rows, W columns of latents.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from training.nets.codec import Codec, decoded


@contextmanager
def inpainting(unet: Any, around: Float[Tensor, "B more H W"]) -> Iterator[None]:  # noqa: ANN401 - no types
    """Tell a UNet of the hole beside its noisy latents while the context lasts.

    Several predictions in one call are of the same samples, one after another.
    """

    def widen(_: nn.Module, told: tuple[Tensor]) -> Tensor:
        (z_t,) = told
        more = around.to(z_t).repeat(len(z_t) // len(around), 1, 1, 1)
        return torch.cat([z_t, more], dim=1)

    hook = unet.conv_in.register_forward_pre_hook(widen)
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def around_hole(
    codec: Codec, latents: Float[Tensor, "B C H W"], hole: Shaped[Tensor, "B H W"]
) -> Float[Tensor, "B more H W"]:
    """Return the hole and the latents of the picture with grey in it, as Stable Diffusion wants.

    The picture itself is masked, not its latents: those beside the hole have seen what was in it.

    Args:
        codec: Of the latents.
        latents: Of whole pictures.
        hole: 1 where there is to be painted, 0 around it.
    """
    pictures = decoded(codec, latents)
    pixels = nn.functional.interpolate(hole[:, None].to(pictures), pictures.shape[2:])
    grey = torch.lerp(pictures, torch.full_like(pictures, 0.5), pixels)
    tensors = [*codec.parameters(), *codec.buffers()] if isinstance(codec, nn.Module) else [grey]
    known = codec.encode(grey.to(tensors[0].dtype))
    return torch.cat([hole[:, None].to(latents), known.to(latents)], dim=1)


def grown(mask: Shaped[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
    """Return a mask with one latent more on every side."""
    return nn.functional.max_pool2d(mask[:, None].float(), 3, stride=1, padding=1)[:, 0]
