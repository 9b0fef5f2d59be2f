"""Run stages on Ray Data: the one seam between the two."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy

from pipelines.counters import RUN, count_batch
from stages.chain import Chain
from stages.poison import Careful
from stages.types import Stage

NOTES = "visage.notes"
"""Where Ray Data's context keeps the folder for the workers' notes; else each machine's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """The hands that some stages are given."""

    batch_rows: int
    """Rows per call."""
    workers: int = 0
    """Processes that hold the stages and their weights; 0: plain tasks, for stages without any."""
    cpus: float = 0.5
    """CPUs reserved for each. Less than one, so that pools cannot starve reading and writing."""
    gpus: float = 0.0
    """GPUs reserved for each; 0.25 lets four share one."""


class _Worker:
    """Hold a chain of stages in one Ray actor."""

    def __init__(self, makes: tuple[Callable[[], Stage], ...]) -> None:
        self.chain = Chain([make() for make in makes])

    @cached_property
    def _careful(self) -> Careful:
        # An actor that Ray restarts keeps its id, and is given the task it died of again.
        return Careful(self.chain, _note(ray.get_runtime_context().get_actor_id()))

    def __call__(self, table: pa.Table) -> pa.Table:
        return _counted(self.chain, self._careful, table)


def apply(ds: Dataset, *makes: Callable[[], Stage], pool: Pool) -> Dataset:
    """Append to ``ds`` the columns of one or more stages that share a worker.

    Ray Data restarts a worker that died and gives it the same task again, without end. What ends
    it are the worker's notes: see ``stages/poison.py``.

    Args:
        ds: Rows with at least the columns that the stages read.
        makes: Stage classes, or ``partial(StageClass, option=...)``, in order. Each is called once
            per worker, inside the worker: that is where weights are loaded. Stages that pass
            in-memory columns to one another must be given together.
        pool: How many workers, and what each is given.
    """
    name = "+".join((m.func if isinstance(m, partial) else m).__name__ for m in makes)
    if pool.workers == 0:
        return ds.map_batches(
            _named(name, makes),
            batch_size=pool.batch_rows,
            batch_format="pyarrow",
            num_cpus=pool.cpus,
            compute=TaskPoolStrategy(),
        )
    return ds.map_batches(
        type(name, (_Worker,), {}),  # Ray shows this name in its dashboard
        fn_constructor_args=(makes,),
        batch_size=pool.batch_rows,
        batch_format="pyarrow",
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
        compute=ActorPoolStrategy(size=pool.workers),
    )


def _counted(chain: Chain, careful: Careful, table: pa.Table) -> pa.Table:
    """Call the chain, and count what it did under the run's name, which Ray Data carries here."""
    done = careful(table)
    if run := DataContext.get_current().get_config(RUN, ""):
        count_batch(run, table, done, [type(stage).__name__ for stage in chain.stages])
    return done


def _note(worker: str) -> Path:
    """Return the file that tells a worker's successor what it was at."""
    folder = DataContext.get_current().get_config(NOTES, "") or tempfile.gettempdir()
    return Path(folder, f"visage-{worker}.json")


def _named(name: str, makes: tuple[Callable[[], Stage], ...]) -> Callable[[pa.Table], pa.Table]:
    """Return a function for plain tasks, named for its stages."""

    def run(table: pa.Table) -> pa.Table:
        chain = Chain([make() for make in makes])
        # A task that is tried again keeps its id.
        return _counted(
            chain, Careful(chain, _note(ray.get_runtime_context().get_task_id())), table
        )

    run.__name__ = run.__qualname__ = name
    return run
