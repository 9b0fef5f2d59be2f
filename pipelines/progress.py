"""What a person sees while a job runs: rows, rate, time left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

if TYPE_CHECKING:
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

    from training.loop import Report
    from training.settings import TrainRecipe

LINE_EVERY_S = 10.0
"""How often progress is a new line where the output is no terminal."""


class _Rate(ProgressColumn):
    """Rows per second since the job began, and the time that is left at that rate."""

    def render(self, task: Task) -> Text:
        return Text(pace(task.completed - task.fields.get("before", 0), task.elapsed or 0.0,
                         (task.total or 0) - task.completed))  # fmt: skip


def pace(done: float, seconds: float, left: float) -> str:
    """Say a rate and the time left, as in ``61 rows/s, 1:04 left``."""
    if done <= 0 or seconds <= 0:
        return "starting"
    rate = done / seconds
    wait = int(left / rate)
    return f"{rate:,.0f} rows/s, {wait // 60}:{wait % 60:02d} left"


class Reporter:
    """Shows one job at a time on a console: a live bar, or a line every few seconds.

    Args:
        console: Where.
        run: The run's name, for Prometheus; empty where its rows are not counted.
    """

    current: ClassVar["Reporter | None"] = None

    def __init__(self, console: Console, run: str = "") -> None:
        self.console, self.run = console, run
        self._bar: Progress | None = None
        self._task: Any = None
        self._name, self._total, self._before = "", 0, 0
        self._began = self._said = 0.0

    @contextmanager
    def job(self, name: str, total: int, before: int = 0) -> Iterator["Reporter"]:
        """Show ``name`` until the block ends; ``before`` rows were done by an earlier try."""
        self._name, self._total, self._before = name, total, before
        self._began = self._said = time.monotonic()
        if before:
            self.console.print(f"{name}: {before:,} of {total:,} rows were done before; going on")
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description:>8}"), BarColumn(), TextColumn(
                    "{task.completed:,.0f}/{task.total:,.0f}"), _Rate(),
                console=self.console, transient=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task(name, total=total, completed=before, before=before)
        Reporter.current = self
        try:
            yield self
        finally:
            Reporter.current = None
            if self._bar:
                self._bar.stop()
                self._bar = None

    def rows(self, done: int) -> None:
        """Say how many rows of this try are done."""
        now = time.monotonic()
        done = min(done + self._before, self._total)
        if self._bar:
            self._bar.update(self._task, completed=done)
        elif now - self._said > LINE_EVERY_S:
            self._said = now
            words = pace(done - self._before, now - self._began, self._total - done)
            self.console.print(f"{self._name}: {done:,} of {self._total:,} rows, {words}")


class TrainingBar:
    """Loss, rate and time left of a training run: a live bar on a terminal, lines elsewhere.

    The time left is at the last report's rate, as Rich's own estimate forgets what is 30 s old, and
    reports of large models are farther apart.

    Args:
        console: Where.
        recipe: What is trained.
    """

    def __init__(self, console: Console, recipe: "TrainRecipe") -> None:
        self.console, self.recipe = console, recipe
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(),
            TextColumn("{task.completed}/{task.total} {task.fields[said]}"),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task(recipe.name, total=recipe.steps, said="")

    def __enter__(self) -> "TrainingBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, report: "Report") -> None:
        """Show how it goes."""
        left_s = int((self.recipe.steps - report.step) * self.recipe.batch / report.images_per_s)
        said = (
            f"loss {report.losses['loss']:.4f}, {report.images_per_s:,.1f} images/s, "
            f"{left_s // 60}:{left_s % 60:02d} left"
        )
        if self.console.is_terminal:
            self._bar.update(self._task, completed=report.step, said=said, refresh=True)
        else:
            self.console.print(f"step {report.step} of {self.recipe.steps}: {said}")


class RayProgress:
    """Ray Data's hook into the execution loop: forwards the rows that stages have finished."""

    def before_execution_starts(self, executor: "StreamingExecutor") -> None:
        """Nothing to do yet."""

    def on_execution_step(self, executor: "StreamingExecutor") -> None:
        """Read the row count of the last pool of stages."""
        reporter, topology = Reporter.current, getattr(executor, "_topology", None)
        if reporter is None or not topology:
            return
        counts = [
            op.metrics.row_outputs_taken
            for op in topology
            if "MapBatches" in op.name and "Write" not in op.name
        ]
        if counts:
            reporter.rows(counts[-1])

    def after_execution_succeeds(self, executor: "StreamingExecutor") -> None:
        """Nothing to say: the job says it."""

    def after_execution_fails(self, executor: "StreamingExecutor", error: Exception) -> None:
        """Nothing to say: the error says it."""
