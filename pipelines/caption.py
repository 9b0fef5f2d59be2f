"""A caption for every kept picture: asked for once, checked, and found again.

Only the rows that everything before has kept are captioned. Their bytes are read where they are
shown to a model, one file at a time, and are never passed on.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ray.data import Dataset

from infra.storage import Folder, count_rows
from pipelines.apply import Pool, apply
from pipelines.caption_pace import Pace, summary
from pipelines.dedupe import ROWS_PER_FILE, read
from pipelines.job import JobRecord
from pipelines.progress import Reporter
from pipelines.recipes import Recipe, Workers
from pipelines.retry import RetriedRun
from pipelines.rows import map_rows
from stages.captions.ask import Captioner, Question, Reply
from stages.captions.http import EndpointDown, HttpCaptioner
from stages.captions.settings import CaptionSettings
from stages.captions.stage import CAPTIONED, MEASURED, Caption, Match
from stages.columns import DECISIONS, schema
from stages.models.faces import ModelCard

SUMMARY = "summary.json"
_VERDICTS = ["rejected_by", "error", "error_detail"]
_KEPT_IN = "ingested_file"
_STOPPED, _WHY = "stopped", "why.json"
_CPUS = 0.25
"""Reserved for a worker that asks a server: it mostly waits."""


def caption(
    ingested: Folder,
    decisions: pa.Table,
    settings: CaptionSettings,
    workers: Workers,
    target: Folder,
    about: Folder,
    reporter: Reporter,
) -> None:
    """Write the captions of all kept rows, and whether they are good enough.

    Args:
        ingested: Rows with their measures and bytes.
        decisions: All rows of the run, with ``id`` and ``status``.
        settings: Who writes captions, and what is asked of them.
        workers: How many hands.
        target: Gets id, captions and verdict of every kept row, partitioned by status.
        about: The job's folder, for the list of kept rows, notes, and ``summary.json``.
        reporter: Shows the progress.

    Raises:
        EndpointDown: The caption server is; what it had answered is kept.
        BadInput: A model cannot be loaded.
    """
    began, before = time.monotonic(), count_rows(target, after_crash=True)
    kept = decisions.filter(pc.equal(decisions["status"], "keep"))["id"].combine_chunks()
    _list_kept(ingested, kept, about / "kept")
    (about / _STOPPED).clear()
    build = partial(
        captioned, settings=settings, workers=workers, ingested=ingested, note=about / _STOPPED
    )
    try:
        map_rows(
            about / "kept",
            target,
            build,
            checkpoint=about / "checkpoint",
            block_rows=workers.block_rows,
            reporter=Pace(reporter, target),
        )
    except Exception:
        if stopped := (about / _STOPPED).read_json(_WHY):
            raise EndpointDown(**stopped) from None
        raise
    seconds = time.monotonic() - began
    done = summary(target, seconds, before)
    about.write_json(SUMMARY, done)
    (about / "kept").clear()
    reporter.console.print(
        f"caption: {done['captions']:,} captions, {done['captions_per_s']:,.1f} captions/s, "
        f"{done['output_tokens']:,} output tokens, {done['output_tokens_per_s']:,.1f} tokens/s",
        highlight=False,
    )


def add_captions(
    run: RetriedRun, recipe: Recipe, ingested: JobRecord, decided: JobRecord, reporter: Reporter
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
    rows: Dataset, settings: CaptionSettings, workers: Workers, ingested: Folder, note: Folder
) -> Dataset:
    """Append captions and verdicts to kept rows; leave out all but them."""
    if settings.asks_a_model or settings.match_model:
        rows = rows.map_batches(
            partial(_with_pictures, ingested=ingested),
            batch_size=workers.block_rows,
            batch_format="pyarrow",
            num_cpus=_CPUS,
        )
    if settings.backend == "vllm":
        from pipelines.caption_vllm import caption_with_vllm

        done = caption_with_vllm(rows, settings, workers)
    else:
        done = apply(
            rows,
            partial(Caption, settings, captioner(settings, note), matcher(settings)),
            pool=_pool(settings, workers),
        )
    return done.select_columns(["id", *CAPTIONED, *_VERDICTS, "status", "timings"])


def captioner(settings: CaptionSettings, note: Folder) -> Callable[[], Captioner] | None:
    """Return what makes the model that sees, inside a worker; None where nobody looks."""
    if settings.backend == "http":
        return partial(_Noting, settings, note)
    if settings.backend == "transformers":
        from stages.captions.transformers_vlm import TransformersCaptioner

        return partial(
            TransformersCaptioner,
            settings.model,
            device=settings.device,
            batch_rows=settings.batch_rows,
            max_tokens=settings.max_tokens,
        )
    return None


def matcher(settings: CaptionSettings) -> Callable[[], Match] | None:
    """Return what makes the model that compares pictures and captions; None where none is named."""
    if not settings.match_model:
        return None
    from stages.captions.match import ClipMatch

    return partial(ClipMatch, settings.match_model, device=settings.device)


def cards(settings: CaptionSettings) -> list[ModelCard]:
    """Return what run records say of the models that this machine holds.

    Raises:
        BadInput: There is no such model.
    """
    from stages.captions.weights import card

    names = [settings.model] if settings.backend in ("transformers", "vllm") else []
    names += [settings.match_model] if settings.match_model else []
    return [card(name) for name in names]


def decide(decisions: pa.Table, told: Folder, target: Folder) -> None:
    """Write decisions: those before, and what captions have said no to."""
    target.clear()
    target.make()
    verdicts = read(told, ["id", "status", *_VERDICTS])
    at = pc.index_in(decisions["id"], value_set=verdicts["id"].combine_chunks())
    columns = {name: decisions[name] for name in decisions.column_names}
    for name in ("status", *_VERDICTS):
        said = pc.take(verdicts[name].combine_chunks(), at)
        columns[name] = pc.if_else(pc.is_valid(at), said, decisions[name])
    rows = pa.table(columns).cast(schema(decisions.column_names)).sort_by("id")
    for number, start in enumerate(range(0, max(rows.num_rows, 1), ROWS_PER_FILE)):
        part = rows.slice(start, ROWS_PER_FILE).combine_chunks()
        target.write_table(f"part-{number:05d}.parquet", part)


def _pool(settings: CaptionSettings, workers: Workers) -> Pool:
    if settings.backend == "http":
        # One batch must fill all of the requests in flight.
        rows = max(workers.block_rows, settings.http.concurrency)
        return Pool(batch_rows=rows, workers=workers.captioners, cpus=_CPUS / workers.captioners)
    if settings.backend == "transformers" or settings.match_model:
        return Pool(
            batch_rows=settings.batch_rows,
            workers=workers.captioners,
            gpus=workers.gpus_per_captioner,
        )
    return Pool(batch_rows=workers.block_rows)


class _Noting(HttpCaptioner):
    """Asks a server; when it is down, leaves a note, for Ray loses an error's type on its way."""

    def __init__(self, settings: CaptionSettings, note: Folder) -> None:
        super().__init__(settings.http, settings.max_tokens)
        self._note = note

    def __call__(self, questions: Sequence[Question]) -> list[Reply]:
        try:
            return super().__call__(questions)
        except EndpointDown as problem:
            self._note.write_json(_WHY, {"url": problem.url, "why": problem.why})
            raise


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
        target.write_table(f"part-{number:05d}.parquet", _undecided(rows))
        wrote += 1
    if not wrote:
        empty = schema(columns).empty_table().append_column(_KEPT_IN, pa.array([], pa.string()))
        target.write_table("part-00000.parquet", _undecided(empty))


def _undecided(rows: pa.Table) -> pa.Table:
    for name in _VERDICTS:
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
