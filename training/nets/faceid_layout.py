"""The names that IP-Adapter-FaceID's weights are published under, and ours.

Ours are the names of parameters inside a diffusers UNet. Published is the layout that diffusers'
``load_ip_adapter`` and ComfyUI read: ``image_proj.proj.0.weight``, ``ip_adapter.1.to_k_ip.weight``,
``ip_adapter.0.to_q_lora.down.weight``, where the number is the attention layer's place in
``unet.attn_processors``. ComfyUI ignores the LoRA in that file, so a companion file carries it
again, under the names that LoRA loaders know.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from training.nets.published import (
    keys_and_values_apart,
    keys_and_values_joined,
    perceiver_names,
    renamed,
    with_biases,
)

ADAPTER = "faceid"
"""What the LoRA is called inside the UNet."""
IMAGE_PROJECTION = "encoder_hid_proj.image_projection_layers.0"

_MLP = {"ff.net.0.proj": "proj.0", "ff.net.2": "proj.2", "norm": "norm"}
_PLUS_MLP = {"proj.net.0.proj": "proj.0", "proj.net.2": "proj.2", "norm": "norm"}
_PROJECTIONS = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"}
_SIDES = {"lora_A": "down", "lora_B": "up"}


def alternates(attention: Sequence[str]) -> bool:
    """Tell whether self- and cross-attention take turns, as the published numbers assume."""
    kinds = [name.split(".")[-2] for name in attention]
    return bool(kinds) and kinds == ["attn1", "attn2"] * (len(kinds) // 2)


def key_value_names(attention: Sequence[str]) -> dict[str, str]:
    """Return, for each of the adapter's keys and values, the base's weight that it begins as."""
    return {
        f"{processor}.{which}_ip.0.weight": f"{processor.removesuffix('.processor')}.{which}.weight"
        for processor in attention[1::2]
        for which in ("to_k", "to_v")
    }


def published_names(attention: Sequence[str], *, lora: bool, plus: bool = False) -> dict[str, str]:
    """Return the published name of each of our names.

    Args:
        attention: Names of the UNet's attention processors, in its order.
        lora: Whether there is a LoRA on them.
        plus: Whether a perceiver looks at the image too.
    """
    names = {
        f"{IMAGE_PROJECTION}.{ours}": f"image_proj.{theirs}"
        for ours, theirs in (_perceiver() if plus else with_biases(_MLP)).items()
    }
    for i, processor in enumerate(attention):
        if i % 2:
            for which in ("to_k_ip", "to_v_ip"):
                names[f"{processor}.{which}.0.weight"] = f"ip_adapter.{i}.{which}.weight"
        if lora:
            for ours, theirs, side, way in _lora(processor):
                names[f"{ours}.{side}.{ADAPTER}.weight"] = (
                    f"ip_adapter.{i}.{theirs}_lora.{way}.weight"
                )
    return names


def publish(weights: Mapping[str, Tensor], attention: Sequence[str]) -> dict[str, Tensor]:
    """Rename our weights to the published layout."""
    names = published_names(attention, lora=_has_lora(weights), plus=_has_perceiver(weights))
    published = {theirs: weights[ours] for ours, theirs in names.items()}
    return keys_and_values_joined(published)


def companion(weights: Mapping[str, Tensor], attention: Sequence[str]) -> dict[str, Tensor]:
    """Return the LoRA alone, under kohya's names, which ComfyUI and diffusers both read.

    The scale of this format is alpha / rank, and ours is 1.
    """
    renamed: dict[str, Tensor] = {}
    for processor in attention:
        for ours, _, side, way in _lora(processor):
            weight = weights[f"{ours}.{side}.{ADAPTER}.weight"]
            name = f"lora_unet_{ours.replace('.', '_')}"
            renamed[f"{name}.lora_{way}.weight"] = weight
            if way == "down":
                renamed[f"{name}.alpha"] = torch.tensor(float(weight.shape[0]))
    return renamed


def adopt(
    published: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    attention: Sequence[str],
    path: Path,
) -> dict[str, Tensor]:
    """Rename published weights to ours.

    Args:
        published: Weights as ``publish`` names them.
        expected: Our weights as they are now: which there must be, and of what shapes.
        attention: Names of the UNet's attention processors, in its order.
        path: Where the published weights are from, for the message.

    Raises:
        BadWeights: A weight is missing, unknown or of another shape.
    """
    names = published_names(attention, lora=_has_lora(expected), plus=_has_perceiver(expected))
    return renamed(keys_and_values_apart(published), expected, names, path)


def nested(published: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Divide published weights by the part before the first dot, as diffusers takes them."""
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, weight in published.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = weight
    return parts


def _lora(processor: str) -> list[tuple[str, str, str, str]]:
    """List the LoRA weights of a layer: our projection, theirs, our side, theirs."""
    layer = processor.removesuffix(".processor")
    return [
        (f"{layer}.{ours}", theirs, side, way)
        for ours, theirs in _PROJECTIONS.items()
        for side, way in _SIDES.items()
    ]


def _has_lora(weights: Mapping[str, Tensor]) -> bool:
    return any(".lora_A." in name for name in weights)


def _has_perceiver(weights: Mapping[str, Tensor]) -> bool:
    return f"{IMAGE_PROJECTION}.proj_in.weight" in weights


def _perceiver() -> dict[str, str]:
    """Name the weights of FaceID-Plus' projection."""
    inside = perceiver_names()
    return with_biases(_PLUS_MLP) | {
        ours: f"perceiver_resampler.{theirs}" for ours, theirs in inside.items()
    }
