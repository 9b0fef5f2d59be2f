"""Read rows, map them with Ray Data, write them: exactly once, whatever happens meanwhile."""

import shutil
from collections.abc import Callable, Sequence

import ray.data
from ray.data import Dataset
from ray.data.checkpoint import CheckpointConfig

from infra.errors import JobFailed
from infra.storage import Folder, count_rows
from pipelines.apply import NOTES
from pipelines.counters import RUN
from pipelines.progress import RayProgress, Reporter


def map_rows(
    source: Folder,
    target: Folder,
    build: Callable[[Dataset], Dataset],
    *,
    checkpoint: Folder,
    block_rows: int,
    reporter: Reporter,
    columns: Sequence[str] | None = None,
) -> None:
    """Carry every row of ``source`` through ``build`` into ``target``, partitioned by status.

    A crash costs at most the blocks that were under way: Ray Data notes the ids of each block
    that is safely written, and the next call leaves them out. The notes must outlive Ray's own
    success until the job is recorded, or a crash between the two would write every row again.

    A row that kills its worker again and again ends as ``crashed``. What a dead worker was at,
    its successor on another machine sees only where the store is a folder that both share.

    Args:
        source: Parquet files with an ``id`` column, unique over all rows.
        target: Where the rows go; holds what an earlier call wrote.
        build: The stages, each of which keeps one row for one row.
        checkpoint: Where the notes are kept; the caller deletes it once the job is recorded.
        block_rows: Rows per task and per file.
        reporter: Shows the progress.
        columns: The columns to read; all by default.

    Raises:
        JobFailed: The numbers of rows read and written differ.
        RayTaskError: A stage raised what concerns no single row: ``WorkersDie``, ``BrokenPromise``.
    """
    expected, before = count_rows(source), count_rows(target, after_crash=True)
    home, name = checkpoint.path.rpartition("/")[0], checkpoint.path.split("/")[-2]
    context = ray.data.DataContext.get_current()
    context.custom_execution_callback_classes = [RayProgress]
    context.set_config(RUN, reporter.run)
    context.checkpoint_config = CheckpointConfig(
        id_column="id",
        checkpoint_path=checkpoint.make().path,
        override_filesystem=checkpoint.fs,
        delete_checkpoint_on_success=False,
    )
    if checkpoint.is_local:
        context.set_config(NOTES, Folder(checkpoint.fs, f"{home}/notes").make().path)
    # More would take the CPUs that writing needs; one looks up millions of ids a second.
    context.checkpoint_config.checkpoint_actor_pool_max_size = 1
    try:
        rows = ray.data.read_parquet(
            source.files(".parquet"),
            filesystem=source.fs,
            columns=list(columns) if columns else None,
        )
        rows = build(rows.repartition(target_num_rows_per_block=block_rows))
        with reporter.job(name, expected, before):
            rows.write_parquet(target.path, filesystem=target.fs, partition_cols=["status"])
    finally:
        # All are global: every later read would be filtered, and every later row counted.
        context.checkpoint_config = None
        context.remove_config(RUN)
        context.remove_config(NOTES)
        if checkpoint.is_local:
            shutil.rmtree(f"{home}/notes", ignore_errors=True)
    found = count_rows(target)
    if found != expected:
        raise JobFailed(name, expected, found, str(target))
