"""Training on many workers: Ray Train starts them, DeepSpeed's ZeRO or torch's DDP joins them.

The loop is that of one plain process, and so are its checkpoints: all workers write into the run's
own folder, which they must all reach (one machine, or a shared filesystem). Ray keeps no checkpoint
of ours; after a crash, new workers go on from the newest one in that folder.
"""

import json
import os
import platform
import shutil
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from infra.errors import BadValue, VisageError
from training.build import build
from training.checkpoints import latest
from training.engine import PlainEngine
from training.evaluation.validation import validator
from training.loop import REPORTS, Report, ReportFile, Wish, fit, read_reports
from training.settings import TrainRecipe

LOOK_EVERY_S = 0.3
"""How often the driver looks for new reports."""
START_WITHIN_S = 600
"""Large images and full clusters keep workers waiting."""


class WorkersFailed(VisageError):
    """Workers crashed, more often than ``scale.max_failures`` allows."""

    def __init__(self, crashes: int, why: str, run: str) -> None:
        self.crashes, self.why, self.run = crashes, why, run
        super().__init__(crashes, why, run)

    def __str__(self) -> str:
        return (
            f"Workers crashed {self.crashes} times, at last of: {self.why}. Checkpoints in "
            f"{self.run!r} are whole; once the cause is mended the same command goes on from there."
        )


@dataclass(frozen=True)
class _Task:
    """What a worker is told; pickled by Ray."""

    recipe: TrainRecipe
    out: Path
    token: str
    """What the driver wrote into the run's folder."""
    cwd: Path
    """Where the command was given: what paths in a recipe are relative to."""
    threads: int


def train_on_workers(
    recipe: TrainRecipe,
    out: Path,
    cpus: int,
    tell: Callable[[Report], None] = lambda _: None,
    asked: Callable[[], bool] = lambda: False,
) -> int:
    """Train ``recipe`` in the Ray that is joined, going on from the newest checkpoint in ``out``.

    Args:
        recipe: Its ``scale`` says how many workers, and what they share.
        out: The run's folder, absolute, on a disk that all workers reach.
        cpus: What workers may reserve together.
        tell: Called here, with each report of a step not told before.
        asked: Whether to end after a checkpoint.

    Returns:
        The step that was reached.

    Raises:
        BadValue: There are fewer GPUs or CPUs than workers, or a worker does not see ``out``.
        WorkersFailed: Workers crashed too often.
        VisageError: Whatever the loop raised in a worker.
    """
    per_worker = resources(recipe, cpus)
    token = uuid.uuid4().hex
    (out / "token").write_text(token)
    (out / "stop").unlink(missing_ok=True)
    threads = recipe.scale.threads or max(per_worker["CPU"], 1)
    task = _Task(recipe, out, token, Path.cwd(), threads)
    tail = _Tail(out, tell)
    try:
        for crashes in range(1, recipe.scale.max_failures + 2):
            why = _one_try(task, per_worker, tail, asked)
            if not why:
                break
            if crashes > recipe.scale.max_failures:
                raise WorkersFailed(crashes, why, str(out))
    finally:
        shutil.rmtree(out / "ray", ignore_errors=True)
        for name in ("token", "stop"):
            (out / name).unlink(missing_ok=True)
    newest = latest(out)
    return int(json.loads((newest / "done.json").read_text())["step"]) if newest else 0


def resources(recipe: TrainRecipe, cpus: int) -> dict[str, int]:
    """Return what each worker reserves, before anything is queued.

    Raises:
        BadValue: There is less than that.
    """
    scale = recipe.scale
    if scale.use_gpu:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if gpus < scale.workers:
            raise BadValue(
                "scale.workers", scale.workers,
                f"each needs a GPU of its own, and there are {gpus}.",
            )  # fmt: skip
        return {"GPU": 1, "CPU": 1}
    if cpus < scale.workers * max(scale.threads, 1):
        raise BadValue(
            "scale.workers", scale.workers,
            f"each needs {max(scale.threads, 1)} CPUs of its own, and there are {cpus}.",
        )  # fmt: skip
    return {"CPU": scale.threads or cpus // scale.workers}


def _one_try(
    task: _Task, per_worker: dict[str, int], tail: "_Tail", asked: Callable[[], bool]
) -> str:
    """Start workers and wait for their end; say why they crashed, or nothing.

    Raises:
        VisageError: A worker raised it: to try again would end the same way.
    """
    scale = task.recipe.scale
    env = {"OMP_NUM_THREADS": str(task.threads), "RAY_TRAIN_V2_ENABLED": "1"}
    if not scale.use_gpu:
        env["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_WITHIN_S))
    trainer = TorchTrainer(
        _work,
        train_loop_config={"task": task},
        scaling_config=ScalingConfig(
            num_workers=scale.workers, use_gpu=scale.use_gpu, resources_per_worker=per_worker
        ),
        run_config=RunConfig(
            # A name of its own: Ray goes on where a run of the same name was.
            name=uuid.uuid4().hex[:8],
            storage_path=str(task.out / "ray"),
            # Crashes are counted by us: what the user must mend is not tried again.
            failure_config=FailureConfig(max_failures=0),
            worker_runtime_env={"env_vars": env},
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    failed: list[BaseException] = []

    def run() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failed.append(error)

    # On a thread, so that Ray leaves Ctrl-C to us.
    waiting = threading.Thread(target=run, daemon=True)
    waiting.start()
    while waiting.is_alive():
        waiting.join(LOOK_EVERY_S)
        tail.look()
        if asked():
            (task.out / "stop").touch()
    tail.look()
    return _explained(failed[0]) if failed else ""


def _explained(error: BaseException) -> str:
    """Say why workers crashed.

    Raises:
        VisageError: It was one of ours.
    """
    if not isinstance(error, TrainingFailedError):
        raise error
    causes: list[Any] = [error]
    if isinstance(error, WorkerGroupError):
        causes = list(error.worker_failures.values())
    elif isinstance(error, ControllerError):
        causes = [error.controller_failure]
    for cause in causes:
        # Ray wraps what user code raises, sometimes twice.
        while cause is not None and not isinstance(cause, VisageError):
            cause = getattr(cause, "_base_exc", None) or getattr(cause, "cause", None)
        if cause is not None:
            raise cause from None
    lines = [line for line in str(causes[0]).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(causes[0]).__name__


class _Tail:
    """Tells the reports that rank 0 writes, each step once."""

    def __init__(self, out: Path, tell: Callable[[Report], None]) -> None:
        self.path, self.tell = out / REPORTS, tell
        self._told = max((r.step for r in read_reports(self.path)), default=0)
        newest = latest(out)
        if newest:
            self._told = int(newest.name.removeprefix("step-"))
        self._seen: tuple[int, int] | None = None

    def look(self) -> None:
        """Tell what is new."""
        if not self.path.exists():
            return
        state = self.path.stat()
        if self._seen == (state.st_mtime_ns, state.st_size):
            return
        self._seen = (state.st_mtime_ns, state.st_size)
        for report in read_reports(self.path):
            if report.step > self._told:
                self._told = report.step
                self.tell(report)


class _Wishes:
    """What is asked of the loop: an end, by the driver's file; a checkpoint, by a dying node."""

    def __init__(self, task: _Task) -> None:
        self.stop, self.every = task.out / "stop", task.recipe.log_every
        self._saved = False

    def __call__(self, step: int) -> Wish:
        """Look, now and then."""
        # First, and at the same steps by all workers: the question is a barrier, and the file may
        # come between two workers' looks.
        asking = step % self.every == 0 and not self._saved
        preempted = asking and ray.train.get_preemption_info() is not None
        self._saved |= preempted
        if self.stop.exists():
            return Wish.END
        return Wish.SAVE if preempted else Wish.GO_ON


def _work(config: dict[str, _Task]) -> None:
    """Train, as one of many."""
    task = config["task"]
    _check_shared(task)
    if task.cwd.is_dir():
        os.chdir(task.cwd)
    torch.set_num_threads(task.threads)
    recipe = task.recipe
    job = build(recipe)
    try:
        if recipe.scale.zero_stage:
            from training.zero import ZeroEngine

            engine: Any = ZeroEngine(job.method, recipe)
        else:
            engine = PlainEngine(job.method, recipe)
        report = ReportFile(task.out) if engine.group.leads else _ignore
        fit(
            engine, job.batches, recipe, task.out, report,
            validate=validator(job, recipe, task.out), wish=_Wishes(task),
        )  # fmt: skip
    except torch.OutOfMemoryError:
        raise BadValue(
            "microbatch", recipe.microbatch,
            "the GPU's memory is too small: give less, or scale.gradient_checkpointing, or a "
            "higher scale.zero_stage.",
        ) from None  # fmt: skip


def _ignore(_: Report) -> None:
    """Only rank 0 tells."""


def _check_shared(task: _Task) -> None:
    """Find what the driver wrote.

    Raises:
        BadValue: This worker sees another disk.
    """
    path = task.out / "token"
    if not path.exists() or path.read_text() != task.token:
        raise BadValue(
            "out", str(task.out),
            f"the worker on {platform.node()} does not see this folder; name one "
            "on a filesystem that all machines share.",
        )  # fmt: skip
