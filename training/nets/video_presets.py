"""Networks that denoise videos, and their autoencoders, by reference; see ``references``.

Two families: AnimateDiff (arXiv:2307.04725), a UNet of Stable Diffusion with motion modules between
its layers, and CogVideoX (arXiv:2408.06072), a transformer over patches of space and time.
"""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
from diffusers.models.unets.unet_motion_model import MotionAdapter, UNetMotionModel
from safetensors import SafetensorError

from infra.errors import BadValue, BadWeights, nearest
from infra.weights import locate
from training.nets.presets import UNETS, load_unet
from training.nets.references import Settings, model_folder, preset, seeded, split_reference
from training.settings import BaseModelSettings

MOTIONS: dict[str, Settings] = {
    "tiny-animatediff": {
        "block_out_channels": UNETS["tiny-sd"]["block_out_channels"],
        "motion_layers_per_block": 1,
        "motion_num_attention_heads": 4,
        "motion_norm_num_groups": 16,
    },
    # The third version for SD 1.5, mm_sd_v15_v3: the adapter's defaults without the middle.
    "animatediff-sd15": {"use_motion_mid_block": False},
}
_PICTURES = {"tiny-animatediff": "random:tiny-sd", "animatediff-sd15": "random:sd15"}
"""The base of pictures under each."""

_TINY: Settings = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 16,
    "text_embed_dim": 32,
    "num_layers": 2,
    "sample_width": 8,
    "sample_height": 8,
    "sample_frames": 9,
    "max_text_seq_length": 16,
    "use_rotary_positional_embeddings": True,
}
_5B: Settings = {
    "num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True,
}  # fmt: skip
_WITH_PICTURE: Settings = {"use_learned_positional_embeddings": True}
TRANSFORMERS: dict[str, Settings] = {
    "tiny-cogvideox": _TINY,
    "tiny-cogvideox-i2v": {**_TINY, **_WITH_PICTURE, "in_channels": 8},
    # The defaults of CogVideoXTransformer3DModel are the 2B's.
    "cogvideox-2b": {},
    "cogvideox-5b": _5B,
    "cogvideox-5b-i2v": {**_5B, **_WITH_PICTURE, "in_channels": 32},
}

VIDEO_VAES: dict[str, Settings] = {
    "tiny-cogvideox": {
        "block_out_channels": (8, 8, 16, 16),
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "sample_height": 64,
        "sample_width": 64,
    },
    "cogvideox-2b": {},
    "cogvideox-5b": {"scaling_factor": 0.7},
}
VIDEO_VAES["tiny-cogvideox-i2v"] = VIDEO_VAES["tiny-cogvideox"]
VIDEO_VAES["cogvideox-5b-i2v"] = VIDEO_VAES["cogvideox-5b"]

_MOVING = "UNetMotionModel"
# ``from_unet2d`` warns that of its layers none must be kept in float32.
logging.getLogger("diffusers.models.modeling_utils").addFilter(
    lambda record: "kept in float32: []" not in record.getMessage()
)


def load_video_network(base: BaseModelSettings, seed: int = 0) -> Any:  # noqa: ANN401 - half untyped
    """Load the network that denoises videos: a ``UNetMotionModel`` or a transformer of CogVideoX.

    Args:
        base: ``weights`` is ``random:<preset>`` of ``MOTIONS`` or ``TRANSFORMERS``, or
            ``file:<folder>`` of a pipeline of either family. A pipeline of pictures gets the
            motion modules that ``motion`` names, or its own ``motion_adapter/``.
        seed: What the weights of ``random:`` are drawn from.

    Raises:
        BadValue: No preset has that name, or there are no motion modules.
        BadWeights: The folder holds no such network in safetensors.
    """
    scheme, name = split_reference(base.weights)
    if scheme == "random":
        if name in TRANSFORMERS:
            kind: Any = CogVideoXTransformer3DModel
            return seeded(lambda: kind.from_config(TRANSFORMERS[name]), seed).eval()
        if name in MOTIONS:
            return _moving(load_unet(_PICTURES[name], seed), base.motion or base.weights, seed)
        known = [*MOTIONS, *TRANSFORMERS]
        cure = f"no base of videos has that name. {nearest(name, known)}"
        raise BadValue("base.weights", base.weights, cure)
    home = locate(base.weights)
    if (home / "transformer").is_dir() or _class_of(home).startswith("CogVideoX"):
        return _read(CogVideoXTransformer3DModel, model_folder(base.weights, "transformer"))
    folder = model_folder(base.weights, "unet")
    if _class_of(folder) == _MOVING:
        return _read(UNetMotionModel, folder)
    motion = base.motion
    if not motion and (home / "motion_adapter").is_dir():
        motion = f"file:{home / 'motion_adapter'}"
    if not motion:
        cure = f"{home} draws pictures; name AnimateDiff's motion modules: file:<folder>."
        raise BadValue("base.motion", "", cure)
    return _moving(load_unet(base.weights, seed), motion, seed)


def load_video_vae(reference: str, seed: int = 0) -> AutoencoderKLCogVideoX:
    """Load the autoencoder of CogVideoX; see ``load_video_network``."""
    kind: Any = AutoencoderKLCogVideoX
    if split_reference(reference)[0] == "random":
        settings = preset(VIDEO_VAES, reference)
        made: AutoencoderKLCogVideoX = seeded(lambda: kind.from_config(settings), seed).eval()
        return made
    vae: AutoencoderKLCogVideoX = _read(kind, model_folder(reference, "vae"))
    return vae


def is_video_vae(reference: str) -> bool:
    """Tell whether a reference is of an autoencoder of videos, not of pictures."""
    scheme, name = split_reference(reference)
    if scheme == "random":
        return name in VIDEO_VAES
    return _class_of(model_folder(reference, "vae")) == "AutoencoderKLCogVideoX"


def count_video_parameters(reference: str) -> int:
    """Count the parameters of a ``random:`` base without allocating them.

    Raises:
        BadValue: No preset has that name.
    """
    _, name = split_reference(reference)
    with torch.device("meta"):
        network = load_video_network(BaseModelSettings(weights=f"random:{name}"))
    return sum(weight.numel() for weight in network.parameters())


def _moving(unet: Any, motion: str, seed: int) -> Any:  # noqa: ANN401 - half untyped
    """Put motion modules into a UNet of pictures."""
    maker: Any = MotionAdapter
    if split_reference(motion)[0] == "random":
        settings = preset(MOTIONS, motion)
        adapter = seeded(lambda: maker.from_config(settings), seed)
    else:
        adapter = _read(maker, model_folder(motion, "motion_adapter"))
    kind: Any = UNetMotionModel
    try:
        return seeded(lambda: kind.from_unet2d(unet, adapter), seed).eval()
    except ValueError as error:
        cure = f"these motion modules are not of this base: {error}."
        raise BadValue("base.motion", motion, cure) from None


def _class_of(folder: Path) -> str:
    path = folder / "config.json"
    return str(json.loads(path.read_text()).get("_class_name", "")) if path.is_file() else ""


def _read(kind: Any, folder: Path) -> Any:  # noqa: ANN401 - diffusers' loaders have no types
    try:
        if torch.get_default_device().type == "meta":  # for a plan: of what size it is
            return kind.from_config(kind.load_config(folder)).eval()
        return kind.from_pretrained(folder, use_safetensors=True, local_files_only=True).eval()
    except (OSError, SafetensorError, ValueError) as error:
        raise BadWeights(str(folder), f"cannot be read: {error}") from error
