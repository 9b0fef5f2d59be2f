"""A caption for every kept picture: asked for once, checked, and found again.

Only the rows that everything before has kept are captioned. Their bytes are read where they are
shown to a model, one file at a time, and are never passed on.
"""

from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ray.data import Dataset

from infra.storage import Folder
from pipelines.apply import apply
from pipelines.captions.hands import captioner, cards, matcher, pool, write_captions
from pipelines.dedupe import ROWS_PER_FILE, read
from pipelines.job import JobRecord
from pipelines.progress import Reporter
from pipelines.recipes import Recipe, Workers
from pipelines.retry import RetriedRun
from stages.captions.settings import CaptionSettings
from stages.captions.stage import CAPTIONED, MEASURED, Caption
from stages.columns import DECISIONS, schema

VERDICTS = ["rejected_by", "error", "error_detail"]
_KEPT_IN = "ingested_file"
_CPUS = 0.25


def caption(
    ingested: Folder,
    decisions: pa.Table,
    settings: CaptionSettings,
    workers: Workers,
    target: Folder,
    about: Folder,
    reporter: Reporter,
    at_once: int,
) -> None:
    """Write the captions of all kept rows, and whether they are good enough.

    Args:
        ingested: Rows with their measures and bytes.
        decisions: All rows of the run, with ``id`` and ``status``.
        settings: Who writes captions, and what is asked of them.
        workers: How many hands.
        target: Gets id, captions and verdict of every kept row.
        about: The job's folder, for the list of kept rows, notes, and ``summary.json``.
        reporter: Shows the progress.
        at_once: Tasks in flight.

    Raises:
        EndpointDown: The caption server is; what it had answered is kept.
        BadInput: A model cannot be loaded.
    """
    kept = decisions.filter(pc.equal(decisions["status"], "keep"))["id"].combine_chunks()
    _list_kept(ingested, kept, about / "kept")
    write_captions(
        about,
        target,
        settings,
        workers,
        reporter,
        light=partial(Caption, settings),
        columns=["id", *MEASURED, *VERDICTS],
        build=partial(
            captioned, settings=settings, workers=workers, ingested=ingested, about=about
        ),
        at_once=at_once,
    )


def add_captions(
    run: RetriedRun,
    recipe: Recipe,
    ingested: JobRecord,
    decided: JobRecord,
    reporter: Reporter,
    at_once: int,
) -> tuple[JobRecord, JobRecord]:
    """Caption a run's kept rows as a job, and decide again as another; return both.

    Raises:
        EndpointDown: The caption server is; what it had answered is kept.
        BadInput: A model cannot be loaded.
    """
    told = run.do(
        "caption",
        lambda target: caption(
            run.data(ingested),
            read(run.data(decided), ["id", "status"]),
            recipe.captions,
            recipe.workers,
            target,
            run.folder / "caption",
            reporter,
            at_once,
        ),
        settings={"captions": recipe.captions},
        inputs=[*run.ingested(ingested), decided.output],
        models=cards(recipe.captions),
    )
    judged = run.do(
        "captioned",
        lambda target: decide(read(run.data(decided), DECISIONS), run.data(told), target),
        settings={},
        inputs=[decided.output, told.output],
    )
    return told, judged


def export_captions(told: Folder, decisions: pa.Table, target: Folder) -> None:
    """Write the captions of the kept rows as one table, sorted by id, beside the export."""
    kept = decisions.filter(pc.equal(decisions["status"], "keep"))["id"].combine_chunks()
    rows = read(told, ["id", *CAPTIONED])
    rows = rows.filter(pc.is_in(rows["id"], value_set=kept)).sort_by("id")
    target.write_table("part-00000.parquet", rows.combine_chunks())


def captioned(
    rows: Dataset, settings: CaptionSettings, workers: Workers, ingested: Folder, about: Folder
) -> Dataset:
    """Append captions and verdicts to kept rows that a model is shown; leave out all but them."""
    rows = rows.map_batches(
        partial(_with_pictures, ingested=ingested),
        batch_size=workers.block_rows,
        batch_format="pyarrow",
        num_cpus=_CPUS,
    )
    if settings.backend == "vllm":
        from pipelines.captions.vllm import caption_with_vllm

        done = caption_with_vllm(rows, settings, workers)
    else:
        done = apply(
            rows,
            partial(Caption, settings, captioner(settings, about), matcher(settings)),
            pool=pool(settings, workers, rows=workers.block_rows),
        )
    return done.select_columns(["id", *CAPTIONED, *VERDICTS, "status", "timings"])


def decide(decisions: pa.Table, told: Folder, target: Folder) -> None:
    """Write decisions: those before, and what captions have said no to."""
    target.clear()
    target.make()
    verdicts = read(told, ["id", "status", *VERDICTS])
    at = pc.index_in(decisions["id"], value_set=verdicts["id"].combine_chunks())
    columns = {name: decisions[name] for name in decisions.column_names}
    for name in ("status", *VERDICTS):
        said = pc.take(verdicts[name].combine_chunks(), at)
        columns[name] = pc.if_else(pc.is_valid(at), said, decisions[name])
    rows = pa.table(columns).cast(schema(decisions.column_names)).sort_by("id")
    for number, start in enumerate(range(0, max(rows.num_rows, 1), ROWS_PER_FILE)):
        part = rows.slice(start, ROWS_PER_FILE).combine_chunks()
        target.write_table(f"part-{number:05d}.parquet", part)


def _list_kept(ingested: Folder, kept: pa.Array, target: Folder) -> None:
    """Write the kept rows' measures, and in which file each row's bytes are."""
    target.clear()
    columns = ["id", *MEASURED]
    wrote = 0
    for number, path in enumerate(ingested.files(".parquet")):
        rows = pq.read_table(path, filesystem=ingested.fs, columns=columns, partitioning=None)
        rows = rows.filter(pc.is_in(rows["id"], value_set=kept)).combine_chunks()
        if not rows.num_rows:
            continue
        rows = rows.append_column(_KEPT_IN, pa.array([path] * rows.num_rows))
        target.write_table(f"part-{number:05d}.parquet", undecided(rows))
        wrote += 1
    if not wrote:
        empty = schema(columns).empty_table().append_column(_KEPT_IN, pa.array([], pa.string()))
        target.write_table("part-00000.parquet", undecided(empty))


def undecided(rows: pa.Table) -> pa.Table:
    """Append verdicts that nobody has given yet."""
    for name in VERDICTS:
        rows = rows.append_column(name, pa.array([""] * rows.num_rows, pa.string()))
    return rows


def _with_pictures(rows: pa.Table, ingested: Folder) -> pa.Table:
    """Append the bytes of every row's picture, read file by file."""
    found: dict[str, Any] = {}
    for path in dict.fromkeys(rows[_KEPT_IN].to_pylist()):
        here = pq.read_table(
            path, filesystem=ingested.fs, columns=["id", "blob"], partitioning=None
        )
        here = here.filter(pc.is_in(here["id"], value_set=rows["id"].combine_chunks()))
        found |= dict(zip(here["id"].to_pylist(), here["blob"].to_pylist(), strict=True))
    blobs = [found.get(row) for row in rows["id"].to_pylist()]
    return rows.append_column("blob", pa.array(blobs, schema(["blob"]).field(0).type))
