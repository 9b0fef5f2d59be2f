"""What a training step on videos needs of each GPU's memory, told before anything is queued.

A step's sequence is long: 49 frames of 480 x 720 px are 17,550 tokens of CogVideoX, and 226 of
text. The method is made without memory (torch's meta device) and asked once, so that its own layers
say what they would keep for the way back; weights, gradients and Adam's state follow from how the
engines hold them. Not counted: what losses decode, the codec, buffers of workers' exchange, CUDA's
own; leave a tenth.

With ``scale.sequence`` workers share the tokens of each sample, and what they keep of them; see
``training.nets.sequence``. At the published length it is seldom needed: checkpointed, a sample's
tokens take less than a tenth of the memory of one H200.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch

from infra.errors import BadValue
from training.build import make_method
from training.engine import HALVES, halved
from training.features import Prepared
from training.method import Method
from training.nets.video_base import is_transformer
from training.settings import LossSettings, Scale, TrainRecipe
from training.video.activations import activations_bytes, longest

_ADAM = 8
"""Bytes of both moments of a weight."""


@dataclass(frozen=True, kw_only=True)
class VideoPlan:
    """A step, and what it holds in the memory of one worker; bytes."""

    tokens: int
    """Of one sample, text included; of a UNet its latents."""
    samples: int
    """In one microbatch."""
    parameters: int
    trained: int
    weights_bytes: int
    gradients_bytes: int
    optimiser_bytes: int
    """With the average of the weights, where one is kept."""
    activations_bytes: int
    """Of a microbatch: kept for the way back, and made anew of the largest part meanwhile."""
    host_bytes: int
    """In the memory of the CPU: the optimiser's state, where it is offloaded."""

    @property
    def device_bytes(self) -> int:
        """All that is on the device at once."""
        parts = (self.weights_bytes, self.gradients_bytes, self.optimiser_bytes)
        return sum(parts) + self.activations_bytes

    def told(self) -> str:
        """Say it to a person."""
        parts = {
            "weights": self.weights_bytes,
            "gradients": self.gradients_bytes,
            "optimiser": self.optimiser_bytes,
            "activations": self.activations_bytes,
        }
        each = ", ".join(f"{name} {_size(held)}" for name, held in parts.items())
        host = f"; {_size(self.host_bytes)} of the CPU's" if self.host_bytes else ""
        return (
            f"{self.tokens:,} tokens in each of {self.samples} samples at once, "
            f"{self.trained:,} of {self.parameters:,} weights trained; about "
            f"{_size(self.device_bytes)} on each worker's device ({each}){host}"
        )


def plan_video(recipe: TrainRecipe, prepared: Prepared) -> VideoPlan | None:
    """Count what a step needs, for the longest of the prepared videos.

    Returns:
        None where a method reads numbers while it is made or asked: without memory it has none.

    Raises:
        BadInput: The recipe does not fit the features.
    """
    # None of the losses' own networks, which are read from files: they are small.
    asked = replace(recipe, losses=LossSettings(masked=1.0))
    try:
        with torch.device("meta"):
            method = make_method(asked, prepared).to("meta")
        return _planned(method, recipe)
    except RuntimeError as error:
        if "meta" not in str(error):
            raise
        return None


def _planned(method: Method, recipe: TrainRecipe) -> VideoPlan:
    scale, dtype = recipe.scale, HALVES.get(recipe.scale.precision, torch.float32)
    trained = sum(weight.numel() for weight in method.optimised().values())
    known = {name: w for name, w in method.named_parameters() if not name.startswith("codec.")}
    half = scale.precision in HALVES
    frozen_bytes = sum(
        weight.numel() * (2 if half and halved(name) else 4)
        for name, weight in known.items()
        if not weight.requires_grad
    )
    samples = min(recipe.microbatch, recipe.batch * scale.sequence // scale.workers)
    # Of a pair both predictions are sent back through.
    graphs = samples * (2 if recipe.losses.dpo or recipe.losses.ipo else 1)
    state = _state_bytes(trained, scale, averaged=recipe.optimiser.ema_decay > 0)
    return VideoPlan(
        tokens=_tokens(method),
        samples=samples,
        parameters=sum(weight.numel() for weight in known.values()),
        trained=trained,
        weights_bytes=_share(4 * trained + frozen_bytes, scale, 3),
        gradients_bytes=_share(4 * trained, scale, 2),
        optimiser_bytes=0 if scale.offload else state,
        activations_bytes=graphs * activations_bytes(method, dtype) // scale.sequence,
        host_bytes=state if scale.offload else 0,
    )


def check_fits(plan: VideoPlan, recipe: TrainRecipe, memory_bytes: int) -> None:
    """Refuse what cannot fit.

    Args:
        plan: Of the recipe.
        recipe: Says what could still be asked for.
        memory_bytes: Of each worker's device.

    Raises:
        BadValue: More is needed than there is.
    """
    if plan.device_bytes <= memory_bytes:
        return
    scale = recipe.scale
    cures = [
        ("scale.gradient_checkpointing True", not scale.gradient_checkpointing),
        ("a smaller microbatch", plan.samples > 1),
        ("scale.precision bf16", scale.precision == "fp32"),
        ("scale.zero_stage 2 or 3 on more workers", scale.zero_stage < 3),
        ("scale.sequence 2 or more on more workers", scale.sequence == 1),
        ("scale.offload True", not scale.offload),
        ("video.trained added", plan.trained == plan.parameters),
    ]
    offered = "; ".join(cure for cure, helps in cures if helps)
    raise BadValue(
        "microbatch",
        recipe.microbatch,
        f"a step needs more than the {_size(memory_bytes)} of a device: {plan.told()}. "
        f"Give {offered or 'shorter clips'}.",
    )


def device_bytes(scale: Scale) -> int | None:
    """Return the memory of a GPU here; None where none is used, or none is seen."""
    if not scale.use_gpu or not torch.cuda.is_available():
        return None
    return int(torch.cuda.mem_get_info()[1])


def _state_bytes(trained: int, scale: Scale, *, averaged: bool) -> int:
    """Return Adam's bytes of one worker, and of the average of the weights."""
    # DeepSpeed keeps a second copy of what it moves, in float32 too.
    each = _ADAM + (4 if scale.zero_stage else 0)
    return _share(each * trained, scale, 1) + (_share(4 * trained, scale, 3) if averaged else 0)


def _share(whole_bytes: int, scale: Scale, from_stage: int) -> int:
    """Divide among the workers what ZeRO divides from a stage on."""
    return whole_bytes // (scale.workers if scale.zero_stage >= from_stage else 1)


def _tokens(method: Any) -> int:  # noqa: ANN401 - of a base of videos
    _, frames, rows, columns = longest(method)
    if not is_transformer(method.network):
        return frames * rows * columns
    patch = method.network.config.patch_size
    text = method.features.text_shape[0] or 1
    return int(text + frames * (rows // patch) * (columns // patch))


def _size(size_bytes: int) -> str:
    if size_bytes < 2**30:
        return f"{size_bytes / 2**20:.1f} MiB"
    return f"{size_bytes / 2**30:.1f} GiB"


def described(recipe: TrainRecipe, prepared: Prepared) -> str:
    """Plan, refuse what cannot fit a GPU that is seen here, and say the rest to a person.

    Raises:
        BadValue: More is needed than there is.
    """
    if (plan := plan_video(recipe, prepared)) is None:
        return f"what a step of {recipe.method.kind} needs of memory cannot be told before it"
    if (memory := device_bytes(recipe.scale)) is not None:
        check_fits(plan, recipe, memory)
    return plan.told()
