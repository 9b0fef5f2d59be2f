"""Ask a base of videos: what AnimateDiff and CogVideoX want around their latents.

Shapes: B samples, C channels, T frames, H rows, W columns of latents; L text tokens of width E.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from jaxtyping import Float, Int64
from torch import Tensor


def is_transformer(network: Any) -> bool:  # noqa: ANN401 - diffusers' networks are half typed
    """Tell CogVideoX, and what grew out of it, from AnimateDiff."""
    return not isinstance(network, UNetMotionModel)


def text_width(network: Any) -> int:  # noqa: ANN401
    """Return the width of the text that a base reads."""
    config = network.config
    return int(config.text_embed_dim if is_transformer(network) else config.cross_attention_dim)


def ask(
    network: Any,  # noqa: ANN401
    z_t: Float[Tensor, "B C T H W"],
    t: Int64[Tensor, " B"],
    text: Float[Tensor, "B L E"],
    *,
    faces: Sequence[Tensor] | None = None,
    beside: Float[Tensor, "B more T H W"] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Float[Tensor, "B C T H W"]:
    """Return the base's prediction, in float32.

    Args:
        network: Of either family.
        z_t: Noisy latents.
        t: Their times.
        text: States of the prompt.
        faces: Of AnimateDiff with an IP-Adapter in it: what its projection is told.
        beside: Of CogVideoX: latents that stand beside the noisy ones in more channels.
        more: What else the network's ``forward`` takes.
    """
    dtype = network.dtype
    if not is_transformer(network):
        added = None if faces is None else {"image_embeds": [each.to(dtype) for each in faces]}
        # The network repeats the faces for each frame, and leaves the text to its caller.
        words = text.to(dtype).repeat_interleave(z_t.shape[2], dim=0)
        pred = network(
            z_t.to(dtype), t, words, added_cond_kwargs=added, return_dict=False, **(more or {})
        )[0]
        return torch.as_tensor(pred).float()
    given = z_t if beside is None else torch.cat([z_t, beside], dim=1)
    pred = network(
        given.transpose(1, 2).to(dtype),
        text.to(dtype),
        t,
        image_rotary_emb=rotary(network, z_t.shape[2], z_t.shape[3], z_t.shape[4], z_t.device),
        return_dict=False,
        **(more or {}),
    )[0]
    return torch.as_tensor(pred).float().transpose(1, 2)


def rotary(
    network: Any,  # noqa: ANN401
    frames: int,
    rows: int,
    columns: int,
    device: torch.device,
) -> tuple[Float[Tensor, "places width"], Float[Tensor, "places width"]] | None:
    """Return cosines and sines of the places of all patches; None where a base takes none.

    A grid of another shape than the base's own is laid into its middle, as CogVideoXPipeline does.
    """
    config = network.config
    if not config.use_rotary_positional_embeddings:
        return None
    patch = config.patch_size
    high, wide = rows // patch, columns // patch
    middle = get_resize_crop_region_for_grid(
        (high, wide), config.sample_width // patch, config.sample_height // patch
    )
    turns: tuple[Tensor, Tensor] = get_3d_rotary_pos_embed(
        embed_dim=config.attention_head_dim,
        crops_coords=middle,
        grid_size=(high, wide),
        temporal_size=frames,
        device=device,
    )
    return turns
