"""Train a recipe as one process on this machine, and record it in MLflow.

Many processes and machines come with ``training/worker.py``; the loop is the same.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from infra.cluster import usable_cpus
from infra.configuration import digest, flat, to_dict, to_yaml
from infra.errors import BadValue
from infra.storage import Folder, open_store
from infra.tracking import Tracker
from pipelines.job import code_version
from training.build import build
from training.engine import PlainEngine
from training.loop import Report, fit, latest
from training.recipes import TrainRecipe


@dataclass(frozen=True)
class Trained:
    """How a run ended; ``--json`` prints it."""

    run: str
    path: str
    export: str
    """The newest checkpoint's weights, in the ecosystem's layout."""
    step: int
    loss: float
    """Mean over the steps since the last report."""
    seconds: float
    mlflow: str


def train(recipe: TrainRecipe, out: str, console: Console) -> Trained:
    """Train ``recipe``, going on from the newest checkpoint of the same recipe and features.

    Raises:
        BadInput: The features are missing or do not fit, the folder cannot be written, or the
            recipe asks for more than one process has.
    """
    began = time.monotonic()
    _check(recipe)
    job = build(recipe)
    name = f"{recipe.name}-{digest(to_dict(recipe), job.prepared.features.corpus)[:8]}"
    store = open_store(out)
    folder = (store / name).make()
    folder.write("recipe.yaml", to_yaml(recipe))
    held = folder.read_json("run.json") or {}
    tracker = Tracker(store, "train", name)
    torch.set_num_threads(recipe.scale.threads or usable_cpus())
    with _Bar(console, recipe) as bar:
        step = fit(
            PlainEngine(job.method, recipe),
            job.batches,
            recipe,
            _path(folder),
            bar.show,
        )
    newest, reports = latest(_path(folder)), bar.reports
    loss = reports[-1].losses["loss"] if reports else float(held.get("loss", "nan"))
    mlflow = tracker.finish(
        params=dict(flat(to_dict(recipe))),
        metrics={"step": step},
        texts={"recipe.yaml": to_yaml(recipe)}
        | ({"reports.jsonl": _lines(reports)} if reports else {}),
        tags={"visage.code": code_version(),
              "visage.corpus": job.prepared.features.corpus},
        series=[(r.step, r.losses | {"images_per_s": r.images_per_s, "grad_norm": r.grad_norm,
                                     "learning_rate": r.learning_rate}) for r in reports],
    )  # fmt: skip
    if tracker.problem:
        console.print(f"{tracker.problem}. The run itself is complete.", markup=False)
    result = Trained(
        name,
        str(folder),
        f"{newest}/export",
        step,
        loss,
        round(time.monotonic() - began, 1),
        mlflow,
    )
    folder.write_json("run.json", asdict(result) | {"code": code_version()})
    return result


def _check(recipe: TrainRecipe) -> None:
    """Refuse what one process cannot do, before anything is loaded."""
    if recipe.scale.workers > 1 or recipe.scale.zero_stage or recipe.scale.offload:
        raise BadValue(
            "scale", f"{recipe.scale.workers} workers, ZeRO {recipe.scale.zero_stage}",
            "this command trains as one process so far: set --scale.workers 1 "
            "--scale.zero-stage 0 --scale.no-offload.",
        )  # fmt: skip
    if recipe.scale.use_gpu and not torch.cuda.is_available():
        raise BadValue("scale.use_gpu", True, "torch sees no GPU here; set --scale.no-use-gpu.")


def _path(folder: Folder) -> Path:
    if not folder.is_local:
        raise BadValue("out", str(folder), "checkpoints are written to a local folder.")
    return Path(folder.path)


def _lines(reports: list[Report]) -> str:
    """Write reports as lines of JSON."""
    rows = (asdict(r) | {"checkpoint": str(r.checkpoint or "")} for r in reports)
    return "".join(json.dumps(row) + "\n" for row in rows)


class _Bar:
    """Loss, rate and time left: a live bar on a terminal, lines elsewhere."""

    def __init__(self, console: Console, recipe: TrainRecipe) -> None:
        self.console, self.recipe = console, recipe
        self.reports: list[Report] = []
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} {task.fields[said]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task(recipe.name, total=recipe.steps, said="")

    def __enter__(self) -> "_Bar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, report: Report) -> None:
        """Show how it goes, and keep it."""
        self.reports.append(report)
        said = f"loss {report.losses['loss']:.4f}, {report.images_per_s:,.1f} images/s"
        if self.console.is_terminal:
            self.progress.update(self.task, completed=report.step, said=said)
        else:
            self.console.print(f"step {report.step} of {self.recipe.steps}: {said}")
