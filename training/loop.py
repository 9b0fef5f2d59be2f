"""The loop: steps, reports, checkpoints. Free of Ray and DeepSpeed.

``visage train`` runs it as one plain process, where neither need be installed.
"""

import json
import shutil
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from infra.errors import VisageError
from training.data import Batches
from training.engine import Engine, Moved, learning_rate
from training.recipes import TrainRecipe

MAX_SKIPPED = 20
"""Steps in a row whose gradients may be not finite before the run is given up."""


class Diverged(VisageError):
    """Gradients were not finite for too many steps."""

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(step)

    def __str__(self) -> str:
        return (
            f"At step {self.step} gradients had not been finite for {MAX_SKIPPED} steps. Lower "
            "optimiser.learning_rate, or use scale.precision bf16 or fp32; then resume."
        )


@dataclass(frozen=True)
class Report:
    """How training goes, over the steps since the last report."""

    step: int
    losses: dict[str, float]
    learning_rate: float
    grad_norm: float
    skipped: int
    images_per_s: float
    data_share: float
    """Share of the time that went into reading batches."""
    checkpoint: Path | None = None


@dataclass
class _Tally:
    """Sums since the last report."""

    losses: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    skipped: int = 0
    steps: int = 0
    data_s: float = 0.0
    began: float = field(default_factory=time.perf_counter)


def fit(
    engine: Engine,
    batches: Batches,
    recipe: TrainRecipe,
    out: Path,
    report: Callable[[Report], None] = lambda _: None,
) -> int:
    """Train to ``recipe.steps``, going on from the newest checkpoint in ``out``.

    SIGTERM ends the loop after a checkpoint, as a preempted node needs it.

    Returns:
        The step that was reached.

    Raises:
        Diverged: Gradients were not finite for too many steps in a row.
    """
    newest = latest(out)
    step = int(engine.load(newest)["step"]) if newest else 0
    tally, bad = _Tally(), 0
    with _terminated() as asked:
        while step < recipe.steps:
            moved = _one_step(engine, batches, recipe, step, tally)
            bad = bad + 1 if moved.skipped else 0
            if bad >= MAX_SKIPPED:
                raise Diverged(step)
            step += 1
            ending = asked() or step == recipe.steps
            saving = ending or step % recipe.save_every == 0
            folder = checkpoint(engine, recipe, out, step) if saving else None
            if folder or step % recipe.log_every == 0:
                report(_told(tally, recipe, step, moved.grad_norm, folder))
                tally = _Tally()
            if ending:
                break
    return step


def _one_step(
    engine: Engine, batches: Batches, recipe: TrainRecipe, step: int, tally: _Tally
) -> Moved:
    """Take one optimiser step."""
    share = min(recipe.microbatch, recipe.batch // engine.world) / (recipe.batch // engine.world)
    reading = time.perf_counter()
    for batch in batches.micro(step, engine.rank, engine.world):
        tally.data_s += time.perf_counter() - reading
        for name, loss in engine.micro(batch, share).items():
            tally.losses[name].append(loss)
        reading = time.perf_counter()
    moved = engine.step()
    tally.steps += 1
    tally.skipped += moved.skipped
    return moved


def _told(
    tally: _Tally, recipe: TrainRecipe, step: int, grad_norm: float, folder: Path | None
) -> Report:
    """Turn sums into a report."""
    seconds = max(time.perf_counter() - tally.began, 1e-9)
    return Report(
        step=step,
        losses={name: sum(each) / len(each) for name, each in tally.losses.items()},
        learning_rate=learning_rate(recipe.optimiser, step - 1, recipe.steps),
        grad_norm=grad_norm,
        skipped=tally.skipped,
        images_per_s=tally.steps * recipe.batch / seconds,
        data_share=tally.data_s / seconds,
        checkpoint=folder,
    )


def checkpoint(engine: Engine, recipe: TrainRecipe, out: Path, step: int) -> Path:
    """Write all that resuming and generating need; keep the newest few.

    ``done.json`` is written last: a folder without it is one that a crash cut short.
    """
    folder = out / f"step-{step:07d}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "export").mkdir(parents=True)
    engine.save(folder, {"step": step})
    with engine.averaged():
        engine.method.save(folder / "export")
    (folder / "done.json").write_text(json.dumps({"step": step, "recipe": recipe.name}) + "\n")
    for old in finished(out)[: -recipe.keep_checkpoints]:
        shutil.rmtree(old)
    return folder


def finished(out: Path) -> list[Path]:
    """List the whole checkpoints of a run, oldest first."""
    return sorted(done.parent for done in out.glob("step-*/done.json"))


def latest(out: Path) -> Path | None:
    """Return the newest whole checkpoint of a run."""
    return next(reversed(finished(out)), None)


@contextmanager
def _terminated() -> Iterator[Callable[[], bool]]:
    """Notice SIGTERM instead of dying of it."""
    seen: list[int] = []
    try:
        before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    except ValueError:  # not the main thread: whoever owns it decides
        yield lambda: False
        return
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGTERM, before)
