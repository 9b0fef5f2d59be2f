"""Who moves the weights: one process with plain torch here, many with DeepSpeed in worker.py."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from infra.errors import BadWeights
from training.method import Method
from training.recipes import OptimiserSettings, TrainRecipe


@dataclass(frozen=True)
class Moved:
    """What one optimiser step did."""

    grad_norm: float
    skipped: bool
    """Whether gradients were not finite, so that nothing moved."""


@runtime_checkable
class Engine(Protocol):
    """Holds the method on its device, and takes its optimiser steps."""

    method: Method
    rank: int
    world: int
    device: torch.device

    def micro(self, batch: Mapping[str, Tensor], share: float) -> dict[str, float]:
        """Go forward and backward on one microbatch, whose loss counts for ``share`` of the step.

        Returns:
            The losses of this microbatch, by name.
        """
        ...

    def step(self) -> Moved:
        """Move the weights once, by the gradients of the microbatches since the last step."""
        ...

    def save(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Write all that resuming needs; every worker calls it."""
        ...

    def load(self, folder: Path) -> dict[str, Any]:
        """Read what ``save`` wrote, on any number of workers; return its ``state``."""
        ...

    def averaged(self) -> Any:  # noqa: ANN401 - a context manager
        """Put the moving average in place of the trained weights while a block runs."""
        ...


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


class Average:
    """The exponential moving average of what is trained, and of nothing else."""

    def __init__(self, weights: Mapping[str, nn.Parameter], decay: float) -> None:
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


class PlainEngine:
    """One process, one device, plain torch."""

    rank, world = 0, 1

    def __init__(self, method: Method, recipe: TrainRecipe) -> None:
        self.recipe, settings = recipe, recipe.optimiser
        self.device = torch.device("cuda" if recipe.scale.use_gpu else "cpu")
        self.method = method.to(self.device)
        self.weights = method.trainable()
        self.optimiser = torch.optim.AdamW(
            self.weights.values(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.average = Average(self.weights, settings.ema_decay) if settings.ema_decay else None
        self.taken = 0
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.scale.precision)
        self._half = half
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=half is torch.float16)

    def micro(self, batch: Mapping[str, Tensor], share: float) -> dict[str, float]:
        """Go forward and backward on one microbatch."""
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        with torch.autocast(self.device.type, self._half) if self._half else nullcontext():
            losses = self.method(batch)
        self._scaler.scale(losses["loss"] * share).backward()
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def step(self) -> Moved:
        """Clip, and move the weights unless a gradient is not finite."""
        rate = learning_rate(self.recipe.optimiser, self.taken, self.recipe.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self._scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.weights.values(), self.recipe.optimiser.clip_norm)
        finite = bool(torch.isfinite(norm))
        if finite:
            self._scaler.step(self.optimiser)
            if self.average:
                self.average.update()
        self._scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        self.taken += 1
        return Moved(float(norm), not finite)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the moving average in place of the trained weights while a block runs."""
        with self.average.swapped() if self.average else nullcontext():
            yield

    def save(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Write weights, average, moments; safetensors, and the state as their metadata."""
        import json

        tensors = {f"weight.{n}": w.detach().contiguous() for n, w in self.weights.items()}
        for name, weight in self.weights.items():
            for key, value in self.optimiser.state.get(weight, {}).items():
                tensors[f"{key}.{name}"] = value.detach().contiguous()
        if self.average:
            tensors |= {f"average.{n}": held for n, held in self.average.held.items()}
        words = dict(state) | {"taken": self.taken}
        words |= {"averaged_steps": self.average.steps if self.average else 0}
        save_file(tensors, folder / "engine.safetensors", {"state": json.dumps(words)})

    def load(self, folder: Path) -> dict[str, Any]:
        """Read what ``save`` wrote.

        Raises:
            BadWeights: The checkpoint is of another method or size.
        """
        import json

        from safetensors import safe_open

        path = folder / "engine.safetensors"
        tensors = load_file(path, device=str(self.device))
        with safe_open(path, framework="pt") as opened:
            words: dict[str, Any] = json.loads(opened.metadata()["state"])
        wanted = {name: tuple(weight.shape) for name, weight in self.weights.items()}
        there = {n[7:]: tuple(t.shape) for n, t in tensors.items() if n.startswith("weight.")}
        if wanted != there:
            raise BadWeights(str(path), "holds the weights of another recipe", "Train anew.")
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(tensors[f"weight.{name}"])
                moments = {k: tensors.get(f"{k}.{name}") for k in ("step", "exp_avg", "exp_avg_sq")}
                if moments["step"] is not None:
                    self.optimiser.state[weight] = moments
                if self.average and f"average.{name}" in tensors:
                    self.average.held[name].copy_(tensors[f"average.{name}"])
        self.taken = words.pop("taken")
        averaged = words.pop("averaged_steps")
        if self.average:
            self.average.steps = averaged
        return words
