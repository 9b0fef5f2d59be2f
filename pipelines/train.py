"""Train a recipe, here or on many workers, and record it in MLflow while it runs."""

import json
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from infra.cluster import cluster, usable_cpus
from infra.configuration import digest, flat, to_dict, to_yaml
from infra.errors import BadValue, VisageError
from infra.metrics import count, gauge
from infra.storage import Folder, open_store
from infra.tracking import Tracker, dataset_of, spool_file
from pipelines.job import code_version, locked
from pipelines.progress import TrainingBar
from training.build import Job, build
from training.checkpoints import finished, latest
from training.engine import PlainEngine
from training.evaluation.validation import SHEETS, sheet_of, validator
from training.features import Prepared
from training.hacking import Hacked
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
    name = run_name(recipe, prepared.digest)
    console.print(f"run {name}, {len(prepared.ids):,} samples", soft_wrap=True, markup=False)
    if prepared.features.frames:
        console.print(described(recipe, prepared), soft_wrap=True, markup=False)
        if recipe.validate_people and recipe.validate_steps:
            console.print("Checkpoints have no sheet of drawings: `visage evaluate` draws videos.")
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
            # So that `visage runs` can say why there is nothing new, unless the disk is full.
            with suppress(OSError):
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
    params, scale = _params(recipe)
    tags = {"visage.code": code_version(), "visage.corpus": corpus} | scale
    spool = spool_file(store, "train", name)
    with Tracker(store, "train", name, spool=spool, system_metrics=True) as tracker:
        tracker.begin(params, tags, dataset_of(corpus, recipe.data.path))
        for checkpoint in finished(path):  # MLflow may have refused one at its time
            said = json.loads((checkpoint / "done.json").read_text())
            _keep(tracker, checkpoint, said.get("scores", {}))
        console.print(f"MLflow: {tracker.url}", soft_wrap=True, markup=False)
        hacked = Hacked(path)
        with TrainingBar(console, recipe) as bar:

            def tell(report: Report) -> None:
                bar.show(report)
                if said := hacked(report):
                    console.print(said, soft_wrap=True, markup=False)
                tracker.log(report.step, numbers(report))
                gauge("visage_train_step", report.step, run=name)
                gauge("visage_train_loss", report.losses["loss"], run=name)
                gauge("visage_train_samples_per_s", report.images_per_s, run=name)
                if report.checkpoint:
                    count("visage_train_checkpoints", run=name)
                    _keep(tracker, report.checkpoint, report.scores)
                    if (sheet := sheet_of(report.checkpoint)).exists():
                        tracker.file(f"{SHEETS}/{sheet.name}", sheet)

            step = _carried_out(recipe, job, path, tell, address)
        reports = read_reports(path / REPORTS)
        if step < recipe.steps:
            console.print(f"Ended at step {step}, after a checkpoint; the same command goes on.")
            mlflow = tracker.fail(KeyboardInterrupt(f"ended at step {step}"))
        else:
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


def _params(recipe: TrainRecipe) -> tuple[dict[str, object], dict[str, str]]:
    """Divide settings into MLflow's params, which never change, and tags.

    A run may go on with more or fewer hands; see ``run_name``.
    """
    params = dict(flat(to_dict(recipe)))
    free = [key for key in params if key.startswith("scale.") and key != "scale.precision"]
    return params, {key: str(params.pop(key)) for key in free}


def _keep(tracker: Tracker, checkpoint: Path, scores: Mapping[str, float]) -> None:
    """Keep a checkpoint's export in MLflow as a LoggedModel."""
    step = int(checkpoint.name.removeprefix("step-"))
    tracker.model(f"step-{step}", checkpoint / "export", scores, step)


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
            engine, job.batches, recipe, path, both, validate=validator(job, recipe, path),
            wish=lambda _: Wish.END if asked() else Wish.GO_ON,
        )  # fmt: skip


def run_name(recipe: TrainRecipe, features: str) -> str:
    """Name the run of a recipe on features, by their digest: others are another run.

    How many workers share the work changes no result, and so no name: a run goes on with more or
    fewer of them.
    """
    alone = replace(recipe, scale=Scale(precision=recipe.scale.precision))
    return f"{recipe.name}-{digest(to_dict(alone), features)[:8]}"


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
