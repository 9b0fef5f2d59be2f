"""Who writes captions, with how many hands, and how the work goes on after a stop."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ray.data import Dataset

from infra.storage import Folder, count_rows
from pipelines.apply import Pool
from pipelines.captions.pace import SUMMARY, Pace, summary
from pipelines.parallel import map_files
from pipelines.progress import Reporter
from pipelines.recipes import Workers
from pipelines.rows import map_rows
from stages.captions.ask import Captioner, Question, Reply
from stages.captions.http import EndpointDown, HttpCaptioner
from stages.captions.settings import CaptionSettings
from stages.captions.stage import Match
from stages.models.faces import ModelCard
from stages.types import Stage

_STOPPED, _WHY = "stopped", "why.json"
_CPUS = 0.25
"""Reserved for a worker that asks a server: it mostly waits."""
_LIGHT_ROWS = 2048
"""Rows per task of those that are captioned without being looked at."""


def write_captions(
    about: Folder,
    target: Folder,
    settings: CaptionSettings,
    workers: Workers,
    reporter: Reporter,
    *,
    light: Callable[[], Stage],
    columns: Sequence[str],
    build: Callable[[Dataset], Dataset],
    at_once: int,
) -> dict[str, Any]:
    """Caption the rows of ``about / "kept"``, and write ``summary.json`` beside them.

    Where nobody looks at anything, rows are mapped file by file: the template takes less time than
    Ray Data would to start.

    Args:
        about: The job's folder.
        target: Gets the rows; holds what an earlier try wrote.
        settings: Who writes captions.
        workers: How many hands.
        reporter: Shows the progress, and at the end how fast captions came.
        light: Makes the stage for rows that nobody looks at.
        columns: What that stage reads, with ``id`` and verdicts.
        build: Captions rows that a model is shown.
        at_once: Tasks in flight, of those that map files.

    Returns:
        What ``summary`` says of it.

    Raises:
        EndpointDown: The caption server is; what it had answered is kept.
        BadInput: A model cannot be loaded.
    """
    began, before = time.monotonic(), count_rows(target, after_crash=True)
    (about / _STOPPED).clear()
    pace = Pace(reporter, target)
    if settings.sees:
        try:
            map_rows(
                about / "kept",
                target,
                build,
                checkpoint=about / "checkpoint",
                block_rows=workers.block_rows,
                reporter=pace,
            )
        except Exception:
            if stopped := (about / _STOPPED).read_json(_WHY):
                raise EndpointDown(**stopped) from None
            raise
    else:
        map_files(
            about / "kept",
            target,
            [light],
            columns=columns,
            rows_per_part=_LIGHT_ROWS,
            at_once=at_once,
            reporter=pace,
        )
    done = summary(target, time.monotonic() - began, before)
    about.write_json(SUMMARY, done)
    (about / "kept").clear()
    reporter.console.print(
        f"caption: {done['captions']:,} captions, {done['captions_per_s']:,.1f} captions/s, "
        f"{done['output_tokens']:,} output tokens, {done['output_tokens_per_s']:,.1f} tokens/s",
        highlight=False,
    )
    return done


def captioner(settings: CaptionSettings, about: Folder) -> Callable[[], Captioner] | None:
    """Return what makes the model that sees, inside a worker; None where nobody looks."""
    if settings.backend == "http":
        return partial(_Noting, settings, about / _STOPPED)
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


def pool(settings: CaptionSettings, workers: Workers, rows: int) -> Pool:
    """Return the hands of those who look.

    Args:
        settings: Who writes captions.
        workers: How many.
        rows: Of one batch for a server, at least: enough to keep its requests in flight.
    """
    if settings.backend == "http":
        rows = max(rows, settings.http.concurrency)
        return Pool(batch_rows=rows, workers=workers.captioners, cpus=_CPUS / workers.captioners)
    return Pool(
        batch_rows=settings.batch_rows,
        workers=workers.captioners,
        gpus=workers.gpus_per_captioner,
    )


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
