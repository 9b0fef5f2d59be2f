"""Call a function for many items on a Ray cluster, a few at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from infra.errors import JobFailed, VisageError
from infra.storage import Folder, count_rows
from pipelines.progress import Reporter
from stages.chain import Chain
from stages.types import Stage

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(
    work: Callable[..., Result],
    items: Iterable[Item],
    *shared: Any,  # noqa: ANN401 - whatever the work takes
    at_once: int,
    num_gpus: float = 0.0,
) -> Iterator[Result]:
    """Yield ``work(item, *shared)`` for every item, in the order in which they finish.

    Args:
        work: A function that may be called twice for one item, if a worker dies.
        items: One task each.
        shared: Further arguments, sent to each machine once.
        at_once: Most tasks in flight, which bounds the memory for their results.
        num_gpus: GPUs that each task takes; a share lets several use one.

    Raises:
        VisageError: What a task raised; any other error comes as Ray's, with its traceback.
    """
    remote = ray.remote(work).options(num_gpus=num_gpus)
    kept = [ray.put(value) for value in shared]
    flying: list[Any] = []
    for item in items:
        if len(flying) >= at_once:
            done, flying = ray.wait(flying)
            yield from _results(done)
        flying.append(remote.remote(item, *kept))
    while flying:
        done, flying = ray.wait(flying)
        yield from _results(done)


def _results(done: list[Any]) -> list[Any]:
    """Fetch results; raise our own errors as themselves, without the worker's traceback."""
    try:
        return list(ray.get(done))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, VisageError):
            raise error.cause from None
        raise


def map_files(
    source: Folder,
    target: Folder,
    makes: Sequence[Callable[[], Stage]],
    *,
    columns: Sequence[str],
    rows_per_part: int,
    at_once: int,
    reporter: Reporter,
) -> None:
    """Carry the light columns of finished rows through cheap stages: one file per task.

    For stages without weights on rows without bytes, where Ray Data's actors and notes cost more
    than the work. The parts that an earlier try wrote are whole, and left as they are.

    Raises:
        JobFailed: The numbers of rows read and written differ.
    """
    parts = list(_parts(source, rows_per_part))
    there = {path.rpartition("/")[2] for path in target.files(".parquet")}
    todo = [part for part in parts if part.name not in there]
    expected = sum(part.rows for part in parts)
    with reporter.job(target.path.split("/")[-2], expected, expected - sum(p.rows for p in todo)):
        done = 0
        for rows in spread(_map_part, todo, source, target, makes, columns, at_once=at_once):
            done += rows
            reporter.rows(done)
    if (found := count_rows(target)) != expected:
        raise JobFailed(target.path.split("/")[-2], expected, found, str(target))


@dataclass(frozen=True, slots=True)
class _Part:
    """What one task maps."""

    name: str
    files: tuple[str, ...]
    rows: int


def _parts(source: Folder, rows_per_part: int) -> Iterator[_Part]:
    """Group files until they hold enough rows for a task."""
    files: list[str] = []
    rows = number = 0
    for path in source.files(".parquet"):
        files.append(path)
        rows += pq.read_metadata(path, filesystem=source.fs).num_rows
        if rows >= rows_per_part:
            yield _Part(f"part-{number:05d}.parquet", tuple(files), rows)
            files, rows, number = [], 0, number + 1
    if files:
        yield _Part(f"part-{number:05d}.parquet", tuple(files), rows)


def _map_part(
    part: _Part,
    source: Folder,
    target: Folder,
    makes: Sequence[Callable[[], Stage]],
    columns: Sequence[str],
) -> int:
    """Map the rows of one part; return how many there are."""
    tables = [
        pq.read_table(path, filesystem=source.fs, columns=list(columns), partitioning=None)
        for path in part.files
    ]
    rows = Chain([make() for make in makes])(pa.concat_tables(tables).combine_chunks())
    target.write_table(part.name, rows)
    return part.rows
