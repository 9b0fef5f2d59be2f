"""What makes a UNet smaller or faster without changing what it computes."""

from typing import Any

import torch

from training.settings import Scale


def tune(unet: Any, scale: Scale) -> None:  # noqa: ANN401  # half of diffusers' methods have no types
    """Apply checkpointing of gradients, memory layout and compilation as a recipe says."""
    if scale.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if scale.channels_last:
        unet.to(memory_format=torch.channels_last)
    if scale.compile:
        unet.compile_repeated_blocks()
