"""Every video brought here and watched, once."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ray.data import Dataset

from infra.storage import Folder, count_rows
from pipelines.apply import Pool, apply
from pipelines.ingest import FETCHER_CPUS
from pipelines.progress import Reporter
from pipelines.rows import map_rows
from pipelines.video.clips import CLIPS, SPOOL
from pipelines.video.models import text_reader
from pipelines.video.recipes import VideoRecipe
from stages.columns import schema
from stages.models.backend import load_detector, load_embedder
from stages.types import Stage
from stages.video.forgotten import DropForgottenVideos
from stages.video.watch import Watch
from stages.web.fetch import Fetch


def watch(
    rows: Folder,
    target: Folder,
    home: Folder,
    recipe: VideoRecipe,
    reporter: Reporter,
    *,
    cpus: int,
    from_web: bool,
    forgotten: frozenset[str] = frozenset(),
) -> None:
    """Watch every video that a seed names; a finished one is not watched again after a crash.

    Videos from the web are fetched to ``home/spool``, which holds all of them until the job is
    done: there must be room.

    Args:
        rows: What the seed wrote.
        target: Gets a row per video, with its shots, clips and tracks.
        home: The job's folder; clips are written to ``home/clips``.
        recipe: How to fetch and watch.
        reporter: Shows the progress.
        cpus: That pools may reserve together.
        from_web: Whether rows name URLs.
        forgotten: Tombstones of clips' files; of a video with such a clip nothing is kept.

    Raises:
        JobFailed: The numbers of rows read and written differ.
    """
    build = partial(
        watching,
        recipe=recipe,
        home=Path(home.path),
        # A worker that has nothing to do loads its models all the same.
        watchers=recipe.workers.lookers or min(cpus, max(count_rows(rows), 1)),
        cpus=cpus,
        from_web=from_web,
        forgotten=forgotten,
    )
    map_rows(
        rows,
        target,
        build,
        checkpoint=home / "checkpoint",
        block_rows=recipe.workers.block_rows,
        reporter=reporter,
    )
    (home / SPOOL).clear()
    sweep(target, home / CLIPS)


def watching(
    rows: Dataset,
    recipe: VideoRecipe,
    home: Path,
    *,
    watchers: int,
    cpus: int,
    from_web: bool,
    forgotten: frozenset[str] = frozenset(),
) -> Dataset:
    """Append to every row what its video shows, with pools that reserve at most ``cpus``."""
    hands, faces = recipe.workers, recipe.faces
    if from_web:
        fetchers = Pool(
            batch_rows=recipe.fetch.concurrency,
            workers=hands.fetchers,
            cpus=FETCHER_CPUS / hands.fetchers,
        )
        fetch = partial(Fetch, recipe.fetch, shares=hands.fetchers, spool=home / SPOOL)
        rows = apply(rows, fetch, pool=fetchers)
        # What was fetched together is watched, written and noted each for itself.
        rows = rows.repartition(target_num_rows_per_block=hands.block_rows)
    else:
        rows = rows.map_batches(_in_place, batch_format="pyarrow", batch_size=None)
    detector = partial(
        load_detector, faces.backend, faces.pack, faces.detect_px, faces.min_score, faces.device
    )
    embedder = partial(load_embedder, faces.backend, faces.pack, faces.device)
    pool = Pool(
        batch_rows=hands.batch_rows,
        workers=watchers,
        cpus=round(min(hands.cpus_per_looker, (cpus - FETCHER_CPUS) / watchers), 3),
        gpus=hands.gpus_per_looker,
    )
    makes: list[Callable[[], Stage]] = [
        partial(Watch, home / CLIPS, recipe.video, detector, embedder, text_reader(recipe))
    ]
    if forgotten:
        makes.append(partial(DropForgottenVideos, home / CLIPS, forgotten))
    return apply(rows, *makes, pool=pool)


def _in_place(rows: pa.Table) -> pa.Table:
    """Say that a video of a folder or tar is watched where it lies."""
    for field in schema(["file", "blob"]):
        rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows


def sweep(watched: Folder, clips: Folder) -> None:
    """Delete what no row names: clips of a try that was killed, and whose video then failed."""
    named: set[str] = set()
    for path in watched.files(".parquet"):
        rows = pq.read_table(path, filesystem=watched.fs, columns=["clips"], partitioning=None)
        files = pc.struct_field(pc.list_flatten(rows["clips"]), "file")
        named.update(files.to_pylist())
    for path in clips.files():
        if path.rpartition("/")[2] not in named:
            clips.fs.delete_file(path)
