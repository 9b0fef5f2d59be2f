"""DeepSpeed's ZeRO: workers share the optimiser's state (1), gradients (2) and weights (3).

Weights are kept in float32 and the method's ``forward`` runs under autocast, as in the plain
engine, so that losses agree with it at every precision. DeepSpeed computes the global norm of the
gradients, clips, and refuses on all workers alike to step where the norm is not finite.

References:
    Rajbhandari et al., "ZeRO", arXiv:1910.02054.
"""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.engine import MOMENTS, Average, Engine, Moved, adamw
from training.method import Method
from training.settings import TrainRecipe
from training.shards import Shards

FIRST_LOSS_SCALE = 2.0**16
"""As torch's GradScaler begins; it halves at every overflow."""


def _deepspeed(use_gpu: bool) -> ModuleType:
    """Import DeepSpeed so that it compiles nothing."""
    if not use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    from deepspeed.ops import __compatible_ops__
    from deepspeed.utils import logger

    logger.setLevel("ERROR")
    # Its shared-memory all-reduce for CPUs is built with a C++ compiler at first use, for a minute;
    # gloo serves as well.
    __compatible_ops__["deepspeed_shm_comm"] = False
    module: ModuleType = deepspeed
    return module


class _Autocast(nn.Module):
    """A method whose forward runs in half precision: DeepSpeed ends an autocast around its own."""

    def __init__(self, method: Method, half: torch.dtype | None) -> None:
        super().__init__()
        self.method, self.low = method, half

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the method's losses."""
        device = batch["noise"].device.type
        with torch.autocast(device, self.low) if self.low else nullcontext():
            losses: dict[str, Tensor] = self.method(batch)
            return losses


def _made_contiguous(method: Method) -> list[nn.Parameter]:
    """Make all weights contiguous, for DeepSpeed broadcasts bytes, which it reads off no others.

    Returns:
        The frozen ones that were in another format. What is trained stays contiguous, for it
        becomes slices of one flat tensor.
    """
    # A convolution of 1 x 1 is both to torch, and is read by its strides.
    changed = [w for w in method.parameters() if w.dim() == 4 and w.stride(-1) != 1]
    for weight in changed:
        weight.data = weight.data.clone(memory_format=torch.contiguous_format)
    return [weight for weight in changed if not weight.requires_grad]


class ZeroEngine(Engine):
    """ZeRO of stage 1, 2 or 3, in a process group that is already there."""

    def __init__(self, method: Method, recipe: TrainRecipe) -> None:
        super().__init__(method, recipe)
        self.stage = recipe.scale.zero_stage
        deepspeed = _deepspeed(recipe.scale.use_gpu)
        self._gather = deepspeed.zero.GatheredParameters
        channels_last = _made_contiguous(self.method)
        self._engine, self._zero, _, _ = deepspeed.initialize(
            model=_Autocast(self.method, self.half),
            optimizer=adamw(self.weights, recipe),
            config=self._config(),
            dist_init_required=False,
        )
        if self.stage < 3:  # else weights come and go, and always contiguous
            for weight in channels_last:
                weight.data = weight.data.to(memory_format=torch.channels_last)
        if self.half is torch.float16:
            from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

            self._zero.loss_scaler = DynamicLossScaler(
                init_scale=FIRST_LOSS_SCALE,
                scale_window=2000,
                min_scale=1.0,
                delayed_shift=1,
                consecutive_hysteresis=False,
                raise_error_at_min_scale=False,
            )
        if recipe.optimiser.ema_decay:
            # Of stage 3 each worker averages the slices that it holds.
            parts = {n: getattr(w, "ds_tensor", w) for n, w in self.weights.items()}
            self.average = Average(parts, recipe.optimiser.ema_decay)
        self._seen = 0.0

    def _config(self) -> dict[str, Any]:
        scale, share = self.recipe.scale, self.recipe.batch // self.group.parts
        zero: dict[str, Any] = {"stage": scale.zero_stage}
        if scale.zero_stage == 3:
            # Small weights too leave the workers after use: averages are put into slices, and a
            # weight that had stayed whole would not notice.
            zero["stage3_param_persistence_threshold"] = 0
        if scale.offload:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": scale.use_gpu}
        return {
            "train_micro_batch_size_per_gpu": min(self.recipe.microbatch, share),
            "gradient_accumulation_steps": 1,  # the boundary is set by hand, see ``micro``
            "gradient_clipping": self.recipe.optimiser.clip_norm,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            # torch's fused AdamW serves on the CPU too; DeepSpeed's would have to be compiled.
            "zero_force_ds_cpu_optimizer": False,
        }

    @property
    def validates(self) -> bool:
        """All of stage 3: the frozen weights as well are gathered layer by layer, by everybody."""
        return super().validates or self.stage == 3

    def micro(self, batch: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
        """Go forward and backward on one microbatch."""
        self._seen += share
        self._engine.set_gradient_accumulation_boundary(self._seen > 1 - share / 2)
        losses = self._engine(self._on_device(batch))
        self._engine.backward(losses["loss"] * share)
        return {name: loss.detach() for name, loss in losses.items()}

    def step(self) -> Moved:
        """Clip, and move the weights unless a gradient is not finite."""
        self._set_rate(self._zero)
        self._engine.step()
        skipped = bool(self._zero.overflow)
        if not skipped:
            self.moved += 1
            if self.average:
                self.average.update()
        self.taken, self._seen = self.taken + 1, 0.0
        return Moved(float(self._engine.get_global_grad_norm()), skipped)

    def gathered(self) -> AbstractContextManager[None]:
        """Make every trained weight whole on every worker while a block runs."""
        if self.stage < 3:
            return nullcontext()
        block: AbstractContextManager[None] = self._gather(list(self.weights.values()))
        return block

    @property
    def _loss_scale(self) -> float:
        return float(self._zero.loss_scaler.cur_scale)

    @_loss_scale.setter
    def _loss_scale(self, scale: float) -> None:
        if self.half is torch.float16:
            self._zero.loss_scaler.cur_scale = scale

    def _shape(self, weight: nn.Parameter) -> tuple[int, ...]:
        return tuple(getattr(weight, "ds_shape", weight.shape))

    def _whole(self, name: str) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param

        held: Tensor = safe_get_full_fp32_param(self.weights[name])
        return held

    def _moment(self, name: str, key: str) -> Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        held: Tensor = safe_get_full_optimizer_state(self.weights[name], key)
        return held

    def _joined(self, name: str, part: Tensor) -> Tensor:
        if self.stage < 3:
            return part
        weight: Any = self.weights[name]
        parts = part.new_empty(part.numel() * self.group.world)
        dist.all_gather_into_tensor(parts, part)
        return parts[: weight.ds_numel].view(weight.ds_shape)

    def _sliced(self, whole: Tensor) -> Tensor:
        """Return what this worker holds of a tensor; of stage 3 an even part, padded by zeros."""
        if self.stage < 3:
            return whole
        size = -(-whole.numel() // self.group.world)
        padded = nn.functional.pad(whole.flatten(), (0, size * self.group.world - whole.numel()))
        return padded.narrow(0, size * self.group.rank, size)

    @torch.no_grad()
    def _take(self, shards: Shards) -> None:
        self._make_moments()
        from deepspeed import utils

        which = "local" if self.stage == 3 else "full"
        set_weight = getattr(utils, f"safe_set_{which}_fp32_param")
        set_moment = getattr(utils, f"safe_set_{which}_optimizer_state")
        for name, weight in self.weights.items():
            held = self._sliced(shards.read(f"weight.{name}"))
            getattr(weight, "ds_tensor", weight).copy_(held)
            set_weight(weight, held)
            if self.moved:
                for key in MOMENTS:
                    set_moment(weight, self._sliced(shards.read(f"{key}.{name}")), key)
            if self.average and f"average.{name}" in shards:
                self.average.held[name].copy_(self._sliced(shards.read(f"average.{name}")))

    def _make_moments(self) -> None:
        """Make Adam's state, which otherwise comes with the first step."""
        if not self.moved:
            return
        zero, adam = self._zero, self._zero.optimizer
        flats = (
            zero.fp32_partitioned_groups_flat if self.stage == 3
            else zero.single_partition_of_fp32_groups
        )  # fmt: skip
        for flat in flats:
            where = flat.device if adam.defaults["fused"] else "cpu"
            adam.state[flat] = {"step": torch.tensor(float(self.moved), device=where)} | {
                key: torch.zeros_like(flat) for key in MOMENTS
            }
        if self.stage < 3:
            zero._lazy_init_hp_params_optimizer_state()
