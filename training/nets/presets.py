"""Denoising networks and autoencoders by reference, see ``training.nets.references``."""

import json
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import SafetensorError

from infra.errors import BadWeights
from training.nets.references import Settings, model_folder, preset, seeded, split_reference

_TINY: Settings = {
    "sample_size": 16,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
}
UNETS: dict[str, Settings] = {
    "tiny-sd": _TINY,
    # Its text is as wide as dlib's vectors, which Arc2Face puts in place of a word.
    "tiny-sd128": {**_TINY, "cross_attention_dim": 128},
    "tiny-sdxl": {
        "sample_size": 16,
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "transformer_layers_per_block": (1, 2),
        "cross_attention_dim": 32,
        "attention_head_dim": (2, 4),
        "norm_num_groups": 16,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        # Six numbers of the micro-condition, and the pooled text of random:tiny-sdxl.
        "projection_class_embeddings_input_dim": 6 * 8 + 32,
    },
    # The defaults of UNet2DConditionModel are Stable Diffusion's, but for the text's width.
    "sd15": {"sample_size": 64, "cross_attention_dim": 768},
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}

_SD_VAE: Settings = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
_TINY_VAE: Settings = {
    "sample_size": 64,
    "block_out_channels": (16, 16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
VAES: dict[str, Settings] = {
    "tiny-sd": _TINY_VAE,
    "tiny-sdxl": {**_TINY_VAE, "scaling_factor": 0.13025},
    "sd15": {**_SD_VAE, "sample_size": 512},
    "sdxl": {**_SD_VAE, "sample_size": 1024, "scaling_factor": 0.13025},
    "tiny-animatediff": _TINY_VAE,
    "animatediff-sd15": {**_SD_VAE, "sample_size": 512},
}


def load_unet(reference: str, seed: int = 0) -> UNet2DConditionModel:
    """Load a denoising network.

    Args:
        reference: ``random:tiny-sd``, ``random:tiny-sd128``, ``random:tiny-sdxl``,
            ``random:sd15``, ``random:sdxl`` or ``file:<folder>``.
        seed: What the weights of ``random:`` are drawn from.

    Raises:
        BadValue: No preset has that name, or the reference has no known scheme.
        BadWeights: The folder does not exist, holds no safetensors, or lacks weights.
    """
    unet: UNet2DConditionModel = _load(UNet2DConditionModel, UNETS, "unet", reference, seed)
    return unet


def load_vae(reference: str, seed: int = 0) -> AutoencoderKL:
    """Load the codec between pictures and latents; see ``load_unet``."""
    vae: AutoencoderKL = _load(AutoencoderKL, VAES, "vae", reference, seed)
    return vae


def count_parameters(reference: str) -> int:
    """Count a denoising network's parameters without allocating or reading them."""
    scheme, _ = split_reference(reference)
    if scheme == "random":
        settings = preset(UNETS, reference)
    else:
        settings = json.loads((model_folder(reference, "unet") / "config.json").read_text())
    kind: Any = UNet2DConditionModel
    with torch.device("meta"):
        unet: UNet2DConditionModel = kind.from_config(settings)
    return sum(p.numel() for p in unet.parameters())


# Diffusers' loaders have no types, hence Any.
def _load(kind: Any, presets: dict[str, Settings], part: str, reference: str, seed: int) -> Any:  # noqa: ANN401
    scheme, _ = split_reference(reference)
    if scheme == "random":
        settings = preset(presets, reference)
        return seeded(lambda: kind.from_config(settings), seed).eval()
    folder = model_folder(reference, part)
    try:
        model, told = kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadWeights(str(folder), f"cannot be read: {error}") from error
    # Diffusers only warns, and leaves these on the meta device to fail later.
    if missing := sorted(told["missing_keys"]):
        raise BadWeights(
            str(folder), f"lacks {len(missing)} weights of {kind.__name__}, such as {missing[0]!r}"
        )
    return model.eval()
