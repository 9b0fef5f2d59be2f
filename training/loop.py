"""The loop: steps, reports, checkpoints. Free of Ray, DeepSpeed and MLflow.

``visage train`` runs it, as one plain process or on many workers, and so does a machine that has
neither Ray nor MLflow: ``python -m training.loop RECIPE --data FOLDER``.
"""

import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infra.errors import BadValue, VisageError
from infra.spool import append_whole
from training.checkpoints import Validate, checkpoint, sweep
from training.checkpoints import finished as finished
from training.checkpoints import latest as latest
from training.data import Batches
from training.engine import Engine, Moved, learning_rate
from training.settings import TrainRecipe

log = logging.getLogger(__name__)
MAX_SKIPPED = 20
"""Steps in a row whose gradients may be not finite before the run is given up."""
REPORTS = "reports.jsonl"


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


class Wish(IntEnum):
    """What is asked of the loop between two steps; of many workers' wishes the greatest counts."""

    GO_ON = 0
    SAVE = 1
    END = 2


@dataclass(frozen=True)
class Report:
    """How training goes, over the steps since the last report."""

    step: int
    losses: dict[str, float]
    """Means over these steps and over all workers; NaN where nothing had a part in one."""
    learning_rate: float
    grad_norm: float
    skipped: int
    images_per_s: float
    """Of all workers; what checkpoints took is not counted."""
    data_share: float
    """Share of the time that went into reading batches."""
    checkpoint: Path | None = None
    scores: dict[str, float] = field(default_factory=dict)
    """Of validation at this checkpoint."""


@dataclass
class _Tally:
    """Sums since the last report."""

    losses: dict[str, Tensor] = field(default_factory=dict)
    """Each one number, or two: a sum, and how many it is of."""
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
    *,
    validate: Validate | None = None,
    wish: Callable[[int], Wish] = lambda _: Wish.GO_ON,
) -> int:
    """Train to ``recipe.steps``, going on from the newest checkpoint in ``out``.

    SIGTERM ends the loop after a checkpoint, as a preempted node needs it.

    Args:
        engine: Each worker has its own.
        batches: What is trained on.
        recipe: How.
        out: The run's folder, which all workers reach.
        report: Called by rank 0.
        validate: See ``training.checkpoints.checkpoint``.
        wish: Asked after each step by every worker.

    Returns:
        The step that was reached.

    Raises:
        BadValue: ``keep_best`` names nothing that is measured.
        Diverged: Gradients were not finite for too many steps in a row.
        CheckpointNotWritten: The disk is full; the checkpoint before is whole.
    """
    newest = latest(out)
    step = engine.load(newest) if newest else 0
    engine.group.barrier()
    if engine.group.leads:
        sweep(out)
    tally, bad = _Tally(), 0
    with noticed(signal.SIGTERM) as asked:
        while step < recipe.steps:
            moved = _one_step(engine, batches, recipe, step, tally)
            if recipe.keep_best not in {"", *tally.losses} and validate is None:
                known = ", ".join(tally.losses)
                raise BadValue("keep_best", recipe.keep_best, f"there are only the losses {known}.")
            bad = bad + 1 if moved.skipped else 0
            if bad >= MAX_SKIPPED:
                raise Diverged(step)
            step += 1
            wanted = engine.group.most(Wish.END if asked() else wish(step))
            ending = wanted == Wish.END or step == recipe.steps
            saving = ending or wanted == Wish.SAVE or step % recipe.save_every == 0
            if saving or step % recipe.log_every == 0:
                told = _told(engine, tally, recipe, step, moved.grad_norm)
                if saving:
                    folder, scores = checkpoint(engine, recipe, out, told.losses, validate)
                    told = replace(told, checkpoint=folder, scores=scores)
                if engine.group.leads:
                    report(told)
                tally = _Tally()
            if ending:
                break
    return step


def _one_step(
    engine: Engine, batches: Batches, recipe: TrainRecipe, step: int, tally: _Tally
) -> Moved:
    """Take one optimiser step."""
    part = recipe.batch // engine.group.parts
    share = min(recipe.microbatch, part) / part
    reading = time.perf_counter()
    for batch in batches.micro(step, engine.group.part, engine.group.parts):
        tally.data_s += time.perf_counter() - reading
        for name, loss in engine.micro(batch, share).items():
            # Summed where it is: reading a number would make the device wait.
            tally.losses[name] = tally.losses.get(name, 0) + loss.double() * share
        reading = time.perf_counter()
    moved = engine.step()
    tally.steps += 1
    tally.skipped += moved.skipped
    return moved


def _told(
    engine: Engine, tally: _Tally, recipe: TrainRecipe, step: int, grad_norm: float
) -> Report:
    """Turn sums into a report; every worker takes part."""
    sums = [numbers.reshape(-1) for numbers in tally.losses.values()]
    means = engine.group.mean(torch.cat(sums)) / tally.steps
    each = torch.split(means, [len(numbers) for numbers in sums])
    losses = {
        name: float(of[0] / of[1] if len(of) == 2 else of[0])
        for name, of in zip(tally.losses, each, strict=True)
    }
    seconds = max(time.perf_counter() - tally.began, 1e-9)
    return Report(
        step=step,
        losses=losses,
        learning_rate=learning_rate(recipe.optimiser, step - 1, recipe.steps),
        grad_norm=grad_norm,
        skipped=tally.skipped,
        images_per_s=tally.steps * recipe.batch / seconds,
        data_share=tally.data_s / seconds,
    )


class ReportFile:
    """The reports of a run, one line of JSON each; a step is told once, however often resumed."""

    def __init__(self, out: Path) -> None:
        """Cut what was told after the newest checkpoint: those steps are taken again."""
        self.path = out / REPORTS
        newest = latest(out)
        step = json.loads((newest / "done.json").read_text())["step"] if newest else 0
        beside = self.path.with_suffix(".tmp")
        kept = (asdict(r) for r in read_reports(self.path) if r.step <= step)
        beside.write_text("".join(_line(row) for row in kept))
        beside.replace(self.path)
        self._unwritten = b""

    def __call__(self, report: Report) -> None:
        """Add one; what a full disk refuses goes before the next one for which there is room."""
        full = bool(self._unwritten)
        self._unwritten += _line(asdict(report)).encode()
        try:
            with self.path.open("ab", buffering=0) as lines:
                append_whole(lines, self._unwritten)
            self._unwritten = b""
        except OSError as error:
            if not full:
                log.warning("Reports from step %d on wait in memory: %s", report.step, error)


def _line(row: dict[str, object]) -> str:
    return json.dumps(row, default=str) + "\n"


def read_reports(path: Path) -> list[Report]:
    """Read the whole lines of a file of reports; none where there is no file."""
    if not path.exists():
        return []
    reports = []
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):  # else the one that is being written, or that a crash cut short
            row = json.loads(line)
            row["checkpoint"] = Path(row["checkpoint"]) if row["checkpoint"] else None
            reports.append(Report(**row))
    return reports


@contextmanager
def noticed(*signals: signal.Signals) -> Iterator[Callable[[], bool]]:
    """Notice signals instead of dying of them; a second Ctrl-C interrupts after all."""
    seen: list[int] = []

    def note(number: int, _: object) -> None:
        if number == signal.SIGINT and number in seen:
            raise KeyboardInterrupt
        seen.append(number)

    before: dict[signal.Signals, Any] = {}
    try:
        # Elsewhere than on the main thread whoever owns it decides.
        if threading.current_thread() is threading.main_thread():
            before = {each: signal.signal(each, note) for each in signals}
        yield lambda: bool(seen)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


if __name__ == "__main__":
    from training.alone import main

    sys.exit(main(sys.argv[1:]))
