"""Train a recipe, here or on many workers, and record it in MLflow while it runs."""

import json
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from infra.cluster import cluster, usable_cpus
from infra.configuration import digest, flat, to_dict, to_yaml
from infra.errors import BadValue, VisageError
from infra.metrics import count, gauge
from infra.released import manifest, manifest_tags
from infra.storage import Folder, open_store
from infra.tracking import Tracker, spool_file
from pipelines.job import code_version, locked
from training.build import Job, build
from training.checkpoints import latest
from training.engine import PlainEngine
from training.evaluation.validation import validator
from training.features import Prepared
from training.loop import REPORTS, Report, ReportFile, Wish, fit, noticed, read_reports
from training.settings import Scale, TrainRecipe
from training.video.plan import described


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


def train(recipe: TrainRecipe, out: str, console: Console, address: str = "") -> Trained:
    """Train ``recipe``, going on from the newest checkpoint of the same recipe and features.

    Ctrl-C and SIGTERM end it after a checkpoint. Where the recipe asks for several workers or for
    ZeRO, they run on the Ray at ``address`` (or RAY_ADDRESS), or on one started for this.

    Raises:
        BadInput: The features are missing or do not fit, the folder cannot be written, another
            process trains the same run, or there are fewer GPUs or CPUs than workers.
    """
    prepared = _prepared(recipe)
    name = run_name(recipe, prepared.features.corpus + prepared.features.pairs)
    console.print(f"run {name}, {len(prepared.ids):,} samples", soft_wrap=True, markup=False)
    if prepared.features.frames:
        console.print(described(recipe, prepared), soft_wrap=True, markup=False)
    # Before anything is written: a model that cannot be made leaves no run.
    job = None if _many(recipe) else build(recipe)
    store = open_store(out)
    folder = (store / name).make()
    _path(folder)
    with locked(folder):
        folder.write("recipe.yaml", to_yaml(recipe))
        try:
            return _trained(recipe, prepared, job, store, folder, console, address)
        except VisageError as error:
            # So that `visage runs` can say why there is nothing new.
            folder.write_json("run.json", (folder.read_json("run.json") or {})
                              | {"run": name, "error": str(error)})  # fmt: skip
            raise


def _trained(
    recipe: TrainRecipe,
    prepared: Prepared,
    job: Job | None,
    store: Folder,
    folder: Folder,
    console: Console,
    address: str,
) -> Trained:
    """Train, and record it."""
    began, path = time.monotonic(), _path(folder)
    name, corpus = path.name, prepared.features.corpus
    tags = {"visage.code": code_version(), "visage.corpus": corpus}
    params = dict(flat(to_dict(recipe)))
    dataset = {"name": f"corpus {corpus[:12]}", "digest": corpus[:36], "source": recipe.data.path}
    spool = spool_file(store, "train", name)
    with Tracker(store, "train", name, spool=spool, system_metrics=True) as tracker:
        tracker.begin(params, tags, dataset)
        console.print(f"MLflow: {tracker.url}", soft_wrap=True, markup=False)
        with _Bar(console, recipe) as bar:

            def tell(report: Report) -> None:
                bar.show(report)
                tracker.log(report.step, numbers(report))
                gauge("visage_train_step", report.step, run=name)
                gauge("visage_train_loss", report.losses["loss"], run=name)
                gauge("visage_train_samples_per_s", report.images_per_s, run=name)
                if report.checkpoint:
                    count("visage_train_checkpoints", run=name)

            step = _carried_out(recipe, job, path, tell, address)
        reports = read_reports(path / REPORTS)
        if step < recipe.steps:
            console.print(f"Ended at step {step}, after a checkpoint; the same command goes on.")
            mlflow = tracker.fail(KeyboardInterrupt(f"ended at step {step}"))
        else:
            _keep_exports(tracker, path)
            texts = {"recipe.yaml": to_yaml(recipe), REPORTS: (path / REPORTS).read_text()}
            mlflow = tracker.finish(params, {"step": step}, texts, tags)
    if tracker.problem:
        console.print(f"{tracker.problem}. The run itself is complete.", markup=False)
    result = Trained(
        name,
        str(folder),
        f"{latest(path)}/export",
        step,
        reports[-1].losses["loss"] if reports else float("nan"),
        round(time.monotonic() - began, 1),
        mlflow,
    )
    folder.write_json("run.json", asdict(result) | {"code": code_version()})
    return result


def _keep_exports(tracker: Tracker, path: Path) -> None:
    """Keep the newest checkpoint's export in MLflow, and the best one's, as LoggedModels."""
    kept = {latest(path)}
    if (path / "best.json").exists():
        kept.add(path / str(json.loads((path / "best.json").read_text())["checkpoint"]))
    for folder in sorted(each for each in kept if each):
        export, step = folder / "export", int(folder.name.removeprefix("step-"))
        scores = json.loads((folder / "done.json").read_text()).get("scores", {})
        tracker.model(f"step-{step}", export, {}, scores, step, manifest_tags(manifest(export)))


def _carried_out(
    recipe: TrainRecipe,
    job: Job | None,
    path: Path,
    tell: Callable[[Report], None],
    address: str,
) -> int:
    """Train here, where there is a job, or on many workers; return the step that was reached."""
    if job is None:
        from training.worker import train_on_workers

        # In this order: Ray takes SIGTERM for itself when it is joined.
        with cluster(address) as cpus, noticed(signal.SIGINT, signal.SIGTERM) as asked:
            return train_on_workers(recipe, path, cpus, tell, asked)
    torch.set_num_threads(recipe.scale.threads or usable_cpus())
    keep = ReportFile(path)

    def both(report: Report) -> None:
        keep(report)
        tell(report)

    engine = PlainEngine(job.method, recipe)
    with noticed(signal.SIGINT) as asked:
        return fit(
            engine, job.batches, recipe, path, both, validate=validator(job, recipe),
            wish=lambda _: Wish.END if asked() else Wish.GO_ON,
        )  # fmt: skip


def run_name(recipe: TrainRecipe, corpus: str) -> str:
    """Name the run of a recipe on a corpus.

    How many workers share the work changes no result, and so no name: a run goes on with more or
    fewer of them.
    """
    alone = replace(recipe, scale=Scale(precision=recipe.scale.precision))
    return f"{recipe.name}-{digest(to_dict(alone), corpus)[:8]}"


def numbers(report: Report) -> Mapping[str, float]:
    """Return what MLflow is told of a report."""
    return report.losses | report.scores | {
        "images_per_s": report.images_per_s, "grad_norm": report.grad_norm,
        "learning_rate": report.learning_rate, "skipped": report.skipped,
    }  # fmt: skip


def _prepared(recipe: TrainRecipe) -> Prepared:
    """Refuse what cannot work, before anything is started."""
    if recipe.scale.use_gpu and not _many(recipe) and not torch.cuda.is_available():
        raise BadValue("scale.use_gpu", True, "torch sees no GPU here; set --scale.no-use-gpu.")
    if not recipe.data.path:
        raise BadValue("data.path", "", "name the folder that `visage prepare` wrote.")
    return Prepared(Path(recipe.data.path))


def _many(recipe: TrainRecipe) -> bool:
    """Whether a plain process is not enough."""
    return recipe.scale.workers > 1 or recipe.scale.zero_stage > 0


def _path(folder: Folder) -> Path:
    if not folder.is_local:
        raise BadValue("out", str(folder), "checkpoints are written to a local folder.")
    return Path(folder.path)


class _Bar:
    """Loss, rate and time left: a live bar on a terminal, lines elsewhere."""

    def __init__(self, console: Console, recipe: TrainRecipe) -> None:
        self.console, self.recipe = console, recipe
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
        """Show how it goes."""
        said = f"loss {report.losses['loss']:.4f}, {report.images_per_s:,.1f} images/s"
        if self.console.is_terminal:
            self.progress.update(self.task, completed=report.step, said=said)
            return
        left_s = (self.recipe.steps - report.step) * self.recipe.batch / report.images_per_s
        left = f"{int(left_s) // 60}:{int(left_s) % 60:02d} left"
        self.console.print(f"step {report.step} of {self.recipe.steps}: {said}, {left}")
