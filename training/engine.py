"""Who moves the weights: plain torch here, alone or in parallel; DeepSpeed's ZeRO in zero.py."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from infra.errors import BadWeights
from training.group import Group
from training.method import Method
from training.settings import OptimiserSettings, TrainRecipe
from training.shards import Shards, write_shards

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's state of one weight, by torch's names."""
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Moved:
    """What one optimiser step did."""

    grad_norm: float
    """Before clipping; not finite where nothing moved."""
    skipped: bool
    """Whether gradients were not finite, so that nothing moved."""


class Engine(ABC):
    """Holds the method on its device, and takes its optimiser steps.

    All but ``micro`` is collective: every worker calls it.
    """

    def __init__(self, method: Method, recipe: TrainRecipe) -> None:
        self.recipe = recipe
        cuda = recipe.scale.use_gpu
        self.device = (
            torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        )
        self.group = Group(self.device, recipe.scale.sequence)
        self.half = HALVES.get(recipe.scale.precision)
        halve_frozen(method, self.half)
        self.method = method.to(self.device)
        if self.group.sequence > 1:
            from training.nets.sequence import divide

            divide(getattr(method, "network", None), self.group.neighbours())
        self.weights = method.optimised()
        self.average: Average | None = None
        self.taken = 0
        """Steps, those included that moved nothing."""
        self.moved = 0
        """Steps that moved the weights: what Adam's bias correction counts."""

    @abstractmethod
    def micro(self, batch: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
        """Go forward and backward on one microbatch, whose loss counts for ``share`` of the step.

        Returns:
            The losses of this microbatch, by name, detached and on the device: reading one would
            make the device wait.
        """

    @abstractmethod
    def step(self) -> Moved:
        """Move the weights once, by the gradients of the microbatches since the last step."""

    @property
    def validates(self) -> bool:
        """Whether this worker takes part in drawing and scoring."""
        return self.group.leads or self.group.sequence > 1

    def averaged(self) -> AbstractContextManager[None]:
        """Put the moving average in place of the trained weights while a block runs."""
        return self.average.swapped() if self.average else nullcontext()

    def gathered(self) -> AbstractContextManager[None]:
        """Make every trained weight whole on every worker while a block runs."""
        return nullcontext()

    def save(self, folder: Path) -> None:
        """Write all that resuming needs; see ``training.shards``."""
        words = {"step": self.taken, "moved": self.moved, "loss_scale": self._loss_scale,
                 "averaged": self.average.steps if self.average else 0}  # fmt: skip
        write_shards(folder, self._held(), words, self.group)

    def load(self, folder: Path) -> int:
        """Read what any engine saved, on any number of workers; return its step.

        Raises:
            BadWeights: The checkpoint is damaged, or of another method or size.
        """
        shards = Shards(folder)
        wanted = {name: self._shape(weight) for name, weight in self.weights.items()}
        if wanted != shards.shapes("weight."):
            raise BadWeights(str(folder), "holds the weights of another recipe", "Train anew.")
        self.taken, self.moved = shards.words["step"], shards.words["moved"]
        self._loss_scale = shards.words["loss_scale"]
        self._take(shards)
        if self.average:
            self.average.steps = shards.words["averaged"]
        return self.taken

    def _held(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor that ``save`` writes, whole, one after the other."""
        for name in self.weights:
            yield f"weight.{name}", self._whole(name)
            if self.moved:
                yield from ((f"{key}.{name}", self._moment(name, key)) for key in MOMENTS)
            if self.average:
                yield f"average.{name}", self._joined(name, self.average.held[name])

    def _shape(self, weight: nn.Parameter) -> tuple[int, ...]:
        return tuple(weight.shape)

    def _whole(self, name: str) -> Tensor:
        """Return a weight."""
        return self.weights[name]

    def _joined(self, name: str, part: Tensor) -> Tensor:  # noqa: ARG002 - of use to others
        """Make a tensor like the weight of that name from what each worker holds of it."""
        return part

    @property
    @abstractmethod
    def _loss_scale(self) -> float:
        """What losses are multiplied by so that fp16 gradients do not vanish; else 1."""

    @_loss_scale.setter
    @abstractmethod
    def _loss_scale(self, scale: float) -> None: ...

    @abstractmethod
    def _moment(self, name: str, key: str) -> Tensor:
        """Return one of Adam's moments of a weight; there are none before the first step."""

    @abstractmethod
    def _take(self, shards: Shards) -> None:
        """Take weights, moments and averages over."""

    def _set_rate(self, optimiser: torch.optim.Optimizer) -> None:
        rate = learning_rate(self.recipe.optimiser, self.taken, self.recipe.steps)
        for group in optimiser.param_groups:
            group["lr"] = rate

    def _on_device(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: held.to(self.device, non_blocking=True) for name, held in batch.items()}


def learning_rate(settings: OptimiserSettings, step: int, steps: int) -> float:
    """Return the rate of one step: linear warm-up, then as the schedule says."""
    rate = settings.learning_rate
    if step < settings.warmup_steps:
        return rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(steps - settings.warmup_steps, 1)
    if settings.schedule == "linear":
        return rate * (1 - done)
    if settings.schedule == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * done))
    return rate


def adamw(weights: Mapping[str, nn.Parameter], recipe: TrainRecipe) -> torch.optim.AdamW:
    """Make the optimiser, in one kernel where the loop over weights would cost."""
    settings, fused = recipe.optimiser, recipe.scale.use_gpu or recipe.scale.offload
    return torch.optim.AdamW(
        weights.values(),
        settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=fused or None,
    )


def halve_frozen(method: Method, half: torch.dtype | None) -> None:
    """Keep what is frozen of the diffusion network in half precision; None: leave it.

    That takes half the memory, and autocast need not cast it anew at every use. What is trained
    stays float32, and so do codec and identity network, whose errors would be the loss's.
    """
    for name, weight in method.named_parameters():
        if half and halved(name) and not weight.requires_grad:
            weight.data = weight.data.to(half)


def halved(name: str) -> bool:
    """Tell by its name whether a weight is the diffusion network's, of pictures or of videos."""
    return name.startswith(("unet.", "network."))


class Average:
    """The exponential moving average of what is trained, and of nothing else."""

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.weights, self.decay = weights, decay
        self.held = {name: w.detach().float().clone() for name, w in weights.items()}
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the present weights; the first steps count more, as in torch's own."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, weight in self.weights.items():
            self.held[name].lerp_(weight.detach().float(), 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Put the average in place of the weights while a block runs."""
        kept = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self._put(self.held)
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(values[name])


class PlainEngine(Engine):
    """Plain torch: every worker holds everything, gradients are averaged (DDP; "ZeRO 0")."""

    def __init__(self, method: Method, recipe: TrainRecipe) -> None:
        super().__init__(method, recipe)
        self.optimiser = adamw(self.weights, recipe)
        if recipe.optimiser.ema_decay:
            self.average = Average(self.weights, recipe.optimiser.ema_decay)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.half is torch.float16)
        self._parallel = (
            DistributedDataParallel(self.method, forward_sync_buffers=False)
            if self.group.world > 1
            else None
        )
        self._seen = 0.0

    def micro(self, batch: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
        """Go forward and backward on one microbatch."""
        self._seen += share
        # Workers exchange gradients once, when the last microbatch has added its own.
        waiting = self._parallel is not None and self._seen < 1 - share / 2
        half = torch.autocast(self.device.type, self.half) if self.half else nullcontext()
        with self._parallel.no_sync() if self._parallel and waiting else nullcontext():
            with half:
                losses = (self._parallel or self.method)(self._on_device(batch))
            self._scaler.scale(losses["loss"] * share).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def step(self) -> Moved:
        """Clip, and move the weights unless a gradient is not finite."""
        self._set_rate(self.optimiser)
        self._scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.weights.values(), self.recipe.optimiser.clip_norm)
        finite = bool(torch.isfinite(norm))
        if finite:
            self._scaler.step(self.optimiser)
            self.moved += 1
            if self.average:
                self.average.update()
        self._scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        self.taken, self._seen = self.taken + 1, 0.0
        return Moved(float(norm), not finite)

    @property
    def _loss_scale(self) -> float:
        return float(self._scaler.get_scale())

    @_loss_scale.setter
    def _loss_scale(self, scale: float) -> None:
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(self._scaler.state_dict() | {"scale": scale})

    def _moment(self, name: str, key: str) -> Tensor:
        weight = self.weights[name]
        # A weight that no gradient has ever reached has no moments: they are what Adam begins with.
        held: Tensor = self.optimiser.state[weight].get(key, torch.zeros_like(weight))
        return held

    @torch.no_grad()
    def _take(self, shards: Shards) -> None:
        for name, weight in self.weights.items():
            weight.copy_(shards.read(f"weight.{name}"))
            if self.moved:
                state = self.optimiser.state[weight]
                where = self.device if self.optimiser.defaults["fused"] else "cpu"
                state["step"] = torch.tensor(float(self.moved), device=where)
                for key in MOMENTS:
                    # Laid out as the weight is: fused kernels walk through both by one index.
                    state[key] = torch.empty_like(weight).copy_(shards.read(f"{key}.{name}"))
            if self.average and f"average.{name}" in shards:
                self.average.held[name].copy_(shards.read(f"average.{name}"))
