"""Tell a run on one page that holds everything it shows and loads nothing."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import JobFailed
from pipelines.reports.captions import CaptionSections
from pipelines.reports.funnel import KEPT, Step, count, funnel, percent
from pipelines.reports.people import PeopleSections
from pipelines.reports.plots import Measure, funnel_plot, histogram, throughput_plot
from pipelines.reports.thumbnails import Box, Thumbnail, thumbnail
from stages.columns import COLUMNS
from stages.models.faces import ModelCard

_EXAMPLES = 8
"""How many rows of one reason are shown."""

_MEASURES = {
    "face_sizes_px": ("Size", "px", False),
    "face_yaws_deg": ("Yaw", "degrees", False),
    "face_pitches_deg": ("Pitch", "degrees", False),
    "face_sharpness": ("Sharpness", "grey levels squared", True),
    "face_exposures": ("Exposure", "mean luminance", False),
}
"""Columns of the main face that are plotted: title, unit, whether the axis is logarithmic."""

_RESTRICTED = re.compile(r"\bnon-?\s?commercial|\bnc\b|research", re.IGNORECASE)

_ID = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{20}\b")


@dataclass(frozen=True, slots=True)
class JobSummary:
    """One job of a run."""

    name: str
    rows: int
    seconds: float
    """Wall time; of the earlier run where ``reused``."""
    reused: bool
    """Whether a finished job with the same input and recipe was taken as it was."""


@dataclass(frozen=True, slots=True)
class StageSummary:
    """One stage of a run, over all its workers."""

    name: str
    rows: int
    seconds: float
    """Busy seconds of one core."""

    @property
    def rows_per_s(self) -> float:
        """Rows per second of one core; 0 where nothing was measured."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run was and what it took."""

    run: str
    recipe_name: str
    recipe_yaml: str
    source: str
    rows: int
    seconds: float
    jobs: tuple[JobSummary, ...]
    stages: tuple[StageSummary, ...]
    models: tuple[ModelCard, ...]
    versions: Mapping[str, str]
    code_version: str
    finished_at: str


@dataclass(frozen=True, slots=True)
class Example:
    """One row to look at."""

    reason: str
    """A name in REJECTIONS or ERRORS, or ``""`` for a kept row."""
    id: str
    title: str
    """The caption, or empty."""
    url: str
    blob: bytes | None
    boxes_px: Sequence[Box] = ()
    scores: Sequence[float] = ()
    note: str = ""
    """More in words: what went wrong, or which row this one repeats."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """The examples of one step of the funnel."""

    step: Step
    pictures: list[tuple[Example, Thumbnail]]
    others: list[Example]
    """Those without a picture that can be shown."""


def write_report(
    run: RunSummary,
    decisions: pa.Table,
    measures: pa.Table,
    pictures: Sequence[Example],
    thresholds: Mapping[str, Sequence[float]] | None = None,
    people: PeopleSections | None = None,
    captions: CaptionSections | None = None,
) -> str:
    """Return the report as one HTML page, without scripts and without external resources.

    Args:
        run: What the run was.
        decisions: One row per input row, with the columns in ``DECISIONS``.
        measures: Rows with ``id`` and those of the plotted columns that were measured.
        pictures: Rows to show; of each reason the first eight are.
        thresholds: Where the recipe draws its lines, by column.
        people: Copies and identities to show.
        captions: What is said of the pictures.

    Raises:
        UnaccountedRows: A row is neither kept, nor rejected, nor in error by a known name.
        JobFailed: There is not one decision for each row of the run.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    if decisions.num_rows != run.rows:
        raise JobFailed("decisions", run.rows, decisions.num_rows, f"{run.run}/decisions")
    steps = funnel(decisions)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": percent,
        "duration": duration,
        "rate": rate,
        "short_ids": short_ids,
    }
    environment.loader = FunctionLoader(
        lambda name: files("pipelines.reports").joinpath(name).read_text(encoding="utf-8")
    )
    return environment.get_template("report.html.j2").render(
        run=run,
        steps=steps,
        totals={outcome: count(steps, outcome) for outcome in ("keep", "reject", "error")},
        funnel_plot=funnel_plot(steps),
        distributions=_distributions(measures, _kept(decisions), thresholds or {}),
        galleries=galleries(steps, pictures),
        throughput_plot=_throughput(run.stages),
        busy_s=sum(stage.seconds for stage in run.stages),
        restricted=restricted(run.models),
        people=people,
        captions=captions,
    )


def galleries(steps: Sequence[Step], examples: Sequence[Example]) -> list[Gallery]:
    """Sort the examples by reason, kept ones first, and make their thumbnails.

    Raises:
        ValueError: An example has a reason for which no row ended.
    """
    by_name = {step.name: step for step in [steps[-1], *steps[:-1]]}
    chosen: dict[str, list[Example]] = {name: [] for name in by_name}
    for example in examples:
        name = example.reason or KEPT
        if name not in by_name:
            raise ValueError(f"The example {example.id!r} ended by {name!r}, but no row did.")
        if len(chosen[name]) < _EXAMPLES:
            chosen[name].append(example)
    return [_gallery(by_name[name], rows) for name, rows in chosen.items() if rows]


def restricted(models: Iterable[ModelCard]) -> list[ModelCard]:
    """Return the models whose licence forbids commercial use or does not say."""
    return [m for m in models if not m.license.strip() or _RESTRICTED.search(m.license)]


def duration(seconds: float) -> str:
    """Write a time the way one says it."""
    minutes, rest = divmod(round(seconds), 60)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if minutes < 1:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def rate(per_s: float) -> str:
    """Write a rate with about three digits."""
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.3g}"


def short_ids(text: str) -> str:
    """Cut the row ids in a text to the digits that the page shows of each row."""
    return _ID.sub(r"\1", text)


def _gallery(step: Step, examples: Sequence[Example]) -> Gallery:
    pictures, others = [], []
    for example in examples:
        small = thumbnail(example.blob, example.boxes_px) if example.blob else None
        if small:
            pictures.append((example, small))
        else:
            others.append(example)
    return Gallery(step, pictures, others)


def _kept(decisions: pa.Table) -> pa.Array:
    """Return the ids of the kept rows."""
    return decisions.filter(pc.equal(decisions["status"], "keep"))["id"].combine_chunks()


def _distributions(
    measures: pa.Table, kept_ids: pa.Array, thresholds: Mapping[str, Sequence[float]]
) -> list[tuple[str, Measure, str]]:
    """Return for each column with values what it means, its numbers and its plot."""
    drawn = []
    for column in _MEASURES:
        if column in measures.column_names:
            measure = main_faces(measures, column, kept_ids, tuple(thresholds.get(column, ())))
            if len(measure.values):
                drawn.append((COLUMNS[column].doc, measure, histogram(measure)))
    return drawn


def main_faces(
    measures: pa.Table, column: str, kept_ids: pa.Array, thresholds: tuple[float, ...] = ()
) -> Measure:
    """Take one measure of the first, hence largest, face of every row that has one."""
    rows = measures.filter(pc.greater(pc.list_value_length(measures[column]), 0))
    values = np.asarray(pc.list_element(rows[column], 0), dtype=np.float64)
    kept = np.asarray(pc.is_in(rows["id"], value_set=kept_ids), dtype=bool)
    finite = np.isfinite(values)
    title, unit, log = _MEASURES[column]
    return Measure(title, unit, values[finite], kept[finite], thresholds, log)


def _throughput(stages: Sequence[StageSummary]) -> str:
    """Plot the stages that were measured; without any there is no plot."""
    measured = [stage for stage in stages if stage.rows_per_s > 0]
    if not measured:
        return ""
    return throughput_plot([s.name for s in measured], [s.rows_per_s for s in measured])
