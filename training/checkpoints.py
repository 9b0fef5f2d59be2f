"""The checkpoints of a run: written whole or not at all, the newest few and the best kept.

A folder ``step-0000500`` holds the engine's files (``training.shards``), ``export/`` with what
``generate`` needs, and last ``done.json``: a folder without it was cut short.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from infra.errors import BadValue, CheckpointNotWritten
from training.engine import Engine
from training.method import Method
from training.settings import TrainRecipe

Validate = Callable[[Method, int], Mapping[str, float]]
"""Scores a method, which has its averaged weights, at a step; greater is better."""


class FirstNotWritten(CheckpointNotWritten):
    """The first checkpoint of a training run could not be written."""

    def __str__(self) -> str:
        return (
            f"The checkpoint {self.path!r} could not be written: {self.why}. There is none before "
            "it: make room, then give the same command again; it begins anew."
        )


def checkpoint(
    engine: Engine,
    recipe: TrainRecipe,
    out: Path,
    losses: Mapping[str, float],
    validate: Validate | None = None,
) -> tuple[Path, dict[str, float]]:
    """Write all that resuming and generating need; keep the newest few, and the best.

    Every worker calls it. The others write their part, rank 0 all that is written once.

    Args:
        engine: Whose step names the folder.
        recipe: Says how many to keep, and what the best is.
        out: The run's folder, which all workers reach.
        losses: Means since the last report, for the record and for ``keep_best``.
        validate: Run by rank 0, or by all where weights are spread over all (ZeRO 3).

    Returns:
        The folder, and the scores; none but on rank 0.

    Raises:
        CheckpointNotWritten: The disk is full, or refuses; the one before, if any, is whole.
        BadValue: ``keep_best`` names nothing that was measured.
    """
    folder, scores = out / f"step-{engine.taken:07d}", dict[str, float]()
    try:
        if engine.group.leads:
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "export").mkdir(parents=True)
        engine.group.barrier()
        engine.save(folder)
        with engine.averaged():
            if validate is not None and engine.validates:
                scores = dict(validate(engine.method, engine.taken))
            with engine.gathered():
                if engine.group.leads:
                    engine.method.save(folder / "export")
        engine.group.barrier()
        if engine.group.leads:
            said = {"step": engine.taken, "recipe": recipe.name, "losses": dict(losses),
                    "scores": scores}  # fmt: skip
            _write(folder / "done.json", said)
    except (OSError, SafetensorError) as error:
        # Safetensors wraps what the system says into words of its own.
        shutil.rmtree(folder, ignore_errors=True)
        failed = CheckpointNotWritten if latest(out) else FirstNotWritten
        raise failed(str(folder), str(error)) from None
    if engine.group.leads:
        _prune(out, recipe)
    return folder, scores


def finished(out: Path) -> list[Path]:
    """List the whole checkpoints of a run, oldest first."""
    return sorted(done.parent for done in out.glob("step-*/done.json"))


def latest(out: Path) -> Path | None:
    """Return the newest whole checkpoint of a run."""
    return next(reversed(finished(out)), None)


def best(out: Path, metric: str) -> tuple[Path, float] | None:
    """Return the whole checkpoint with the lowest loss or the highest score of that name.

    Raises:
        BadValue: Checkpoints have no such number.
    """
    found: list[tuple[float, Path, float]] = []
    for folder in finished(out):
        said: dict[str, Any] = json.loads((folder / "done.json").read_text())
        losses, scores = said.get("losses", {}), said.get("scores", {})
        if metric not in losses | scores:
            known = ", ".join(sorted(losses | scores))
            raise BadValue("keep_best", metric, f"checkpoints have {known}.")
        value = scores[metric] if metric in scores else losses[metric]
        found.append((value if metric in scores else -value, folder, value))
    # Of equal ones the newest; one whose number is none is never the best.
    sound = [entry for entry in found if entry[0] == entry[0]]
    return max(sound, key=lambda entry: entry[:2])[1:] if sound else None


def sweep(out: Path) -> None:
    """Remove checkpoints that a crash cut short."""
    for folder in out.glob("step-*"):
        if not (folder / "done.json").exists():
            shutil.rmtree(folder)


def _prune(out: Path, recipe: TrainRecipe) -> None:
    """Remove old checkpoints, and say in ``best.json`` which one is the best."""
    kept = set(finished(out)[-recipe.keep_checkpoints :])
    if recipe.keep_best and (winner := best(out, recipe.keep_best)):
        kept.add(winner[0])
        said = {"checkpoint": winner[0].name, "metric": recipe.keep_best, "value": winner[1]}
        _write(out / "best.json", said)
    for old in set(finished(out)) - kept:
        # A folder half removed must not look whole.
        (old / "done.json").unlink()
        shutil.rmtree(old)


def _write(path: Path, said: Mapping[str, Any]) -> None:
    """Write JSON beside, and move it into place."""
    beside = path.with_name(f"{path.name}.tmp")
    beside.write_text(json.dumps(said, indent=2) + "\n")
    beside.replace(path)
