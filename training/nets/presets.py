"""Base models by reference: true architectures with seeded random weights, or folders on disk.

A reference says where a model comes from:

* ``random:<preset>``: the preset's architecture, its weights drawn from a seed; for tests, plans
  and timings, on machines that have no weights;
* ``file:<folder>``: a diffusers folder, of a whole pipeline or of the one model, safetensors only.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import SafetensorError

from infra.errors import BadValue, BadWeights, nearest
from infra.weights import locate

Settings = dict[str, Any]

UNETS: dict[str, Settings] = {
    "tiny-sd": {
        "sample_size": 16,
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
        "norm_num_groups": 16,
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
VAES: dict[str, Settings] = {
    "tiny-sd": {
        "sample_size": 64,
        "block_out_channels": (16, 16, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "layers_per_block": 1,
        "norm_num_groups": 8,
    },
    "sd15": {**_SD_VAE, "sample_size": 512},
    "sdxl": {**_SD_VAE, "sample_size": 1024, "scaling_factor": 0.13025},
}


def load_unet(reference: str, seed: int = 0) -> UNet2DConditionModel:
    """Load a denoising network.

    Args:
        reference: ``random:tiny-sd``, ``random:sd15``, ``random:sdxl`` or ``file:<folder>``.
        seed: What the weights of ``random:`` are drawn from.

    Raises:
        BadValue: No preset has that name, or the reference has no known scheme.
        BadWeights: The folder does not exist, or holds no safetensors.
    """
    unet: UNet2DConditionModel = _load(UNet2DConditionModel, UNETS, "unet", reference, seed)
    return unet


def load_vae(reference: str, seed: int = 0) -> AutoencoderKL:
    """Load the codec between pictures and latents; see ``load_unet``."""
    vae: AutoencoderKL = _load(AutoencoderKL, VAES, "vae", reference, seed)
    return vae


def count_parameters(reference: str) -> int:
    """Count a denoising network's parameters without allocating or reading them."""
    scheme, name = _split(reference)
    if scheme == "random":
        settings = _preset(UNETS, name, reference)
    else:
        settings = json.loads((_folder(reference, "unet") / "config.json").read_text())
    kind: Any = UNet2DConditionModel
    with torch.device("meta"):
        unet: UNet2DConditionModel = kind.from_config(settings)
    return sum(p.numel() for p in unet.parameters())


# Diffusers' loaders have no types, hence Any.
def _load(kind: Any, presets: dict[str, Settings], part: str, reference: str, seed: int) -> Any:  # noqa: ANN401
    scheme, name = _split(reference)
    if scheme == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return kind.from_config(_preset(presets, name, reference)).eval()
    folder = _folder(reference, part)
    try:
        return kind.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except (OSError, SafetensorError) as error:
        raise BadWeights(str(folder), f"cannot be read: {error}") from error


def _split(reference: str) -> tuple[str, str]:
    """Divide a reference into its scheme and the rest."""
    scheme, _, rest = reference.partition(":")
    if scheme == "hub":
        raise BadValue(
            "weights", reference, "models are not fetched yet; download it, give 'file:<folder>'."
        )
    if scheme not in ("random", "file"):
        raise BadValue("weights", reference, "begin with 'random:' or 'file:'.")
    return scheme, rest


def _preset(presets: dict[str, Settings], name: str, reference: str) -> Settings:
    if name not in presets:
        raise BadValue("weights", reference, f"no preset has that name. {nearest(name, presets)}")
    return presets[name]


def _folder(reference: str, part: str) -> Path:
    """Find the folder of one model, and see that it holds safetensors."""
    folder = locate(reference)
    if (folder / part).is_dir():
        folder /= part
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".ckpt"))
        if pickled:
            raise BadWeights(
                str(folder / pickled[0]),
                "is a pickle, which can run code when it is read",
                "Convert it to safetensors.",
            )
        raise BadWeights(
            str(folder),
            "is no diffusers folder with safetensors in it",
            "Give the folder that holds config.json and *.safetensors.",
        )
    return folder
