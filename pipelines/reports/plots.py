"""Draw the plots of the report as SVG that takes its colours from the page.

Each plot is drawn with placeholder colours, which are then replaced by the page's CSS variables, so
that one drawing serves light, dark and paper. Text stays text: it is searched, copied and read out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float

from pipelines.reports.funnel import Step, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _MUTED, _RULE, _FAINT = "#000001", "#000002", "#000003", "#000004"
_KEEP, _REJECT, _ERROR = "#000005", "#000006", "#000007"
_VARIABLES = {
    _INK: "--ink", _MUTED: "--muted", _RULE: "--rule", _FAINT: "--faint",
    _KEEP: "--keep", _REJECT: "--reject", _ERROR: "--error",
}  # fmt: skip
_BY_OUTCOME = {"keep": _KEEP, "reject": _REJECT, "error": _ERROR}

_PAGE_WIDE = re.compile(r' id="[\w.]+_\d+"|<style.*?</style>', re.DOTALL)
"""What would meet its like from another plot on the same page."""

_BINS = 36
_ROW_IN = 0.27


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure of every main face, ready to be drawn."""

    title: str
    unit: str
    values: Float[np.ndarray, " faces"]
    kept: Bool[np.ndarray, " faces"]
    """Which of them belong to kept rows."""
    thresholds: tuple[float, ...]
    log: bool
    """Whether equal steps are equal ratios."""


def funnel_plot(steps: Sequence[Step]) -> str:
    """Draw a staircase: each step takes its rows off what the steps above it left."""
    figure, axes = _canvas(3.8, _ROW_IN * (len(steps) + 1) + 0.1)
    rows = max(sum(step.count for step in steps), 1)
    left = float(rows)
    axes.barh(0, rows, color=_FAINT, height=0.72)
    axes.text(rows * 1.015, 0, f"{rows:,}", va="center", color=_MUTED)
    for y, step in enumerate(steps, start=1):
        left -= step.count
        axes.barh(y, left, color=_FAINT, height=0.72)
        axes.barh(y, step.count, left=left, color=_BY_OUTCOME[step.outcome], height=0.72)
        label = f"{step.count:,} · {percent(step.share)}"
        axes.text((left + step.count) + rows * 0.015, y, label, va="center", color=_INK)
    axes.set_yticks(range(len(steps) + 1), ["all rows", *(step.name for step in steps)])
    axes.set_xlim(0, rows * 1.38)
    axes.set_ylim(len(steps) + 0.5, -0.5)
    axes.xaxis.set_visible(False)
    told = ", ".join(f"{step.name} {step.count} ({percent(step.share)})" for step in steps)
    return _svg(figure, f"Funnel of {rows} rows: {told}.")


def histogram(measure: Measure) -> str:
    """Draw how a measure is spread: kept rows over the others, thresholds as dashed lines."""
    figure, axes = _canvas(3.3, 1.45)
    edges = _edges(measure)
    shown = np.clip(measure.values, edges[0], edges[-1])
    everything, _ = np.histogram(shown, edges)
    kept, _ = np.histogram(shown[measure.kept], edges)
    wide = np.diff(edges)
    axes.bar(edges[:-1], everything, wide, align="edge", color=_REJECT, alpha=0.55)
    axes.bar(edges[:-1], kept, wide, align="edge", color=_KEEP)
    top = float(everything.max()) * 1.22
    for threshold in _drawn(measure):
        axes.axvline(threshold, color=_ERROR, linewidth=1.1, linestyle=(0, (4, 2.5)))
        at_right = np.searchsorted(edges, threshold) > _BINS / 2
        axes.annotate(
            f"{threshold:g}".replace("-", "\N{MINUS SIGN}"),
            (threshold, top),
            xytext=(-4 if at_right else 4, 0),
            textcoords="offset points",
            va="top",
            ha="right" if at_right else "left",
            color=_ERROR,
        )
    if measure.log:
        _log_axis(axes)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, top)
    axes.yaxis.set_visible(False)
    axes.spines["bottom"].set_visible(True)
    low, middle, high = np.quantile(measure.values, (0.25, 0.5, 0.75))
    lines = " and ".join(f"{threshold:g}" for threshold in measure.thresholds)
    return _svg(
        figure,
        f"Histogram of {measure.title.lower()} in {measure.unit} of {len(measure.values)} faces: "
        f"median {middle:.3g}, middle half from {low:.3g} to {high:.3g}"
        + (f"; thresholds at {lines}." if lines else "."),
    )


def throughput_plot(names: Sequence[str], rows_per_s: Sequence[float]) -> str:
    """Draw one bar per stage on a logarithmic axis; stages differ by orders of magnitude."""
    figure, axes = _canvas(4.0, _ROW_IN * len(names) + 0.4)
    slowest, fastest = min(rows_per_s), max(rows_per_s)
    start = 10 ** np.floor(np.log10(slowest) - 0.2)
    label: dict[str, Any] = {"va": "center", "color": _INK}
    for y, rate in enumerate(rows_per_s):
        axes.barh(y, rate - start, left=start, color=_KEEP, height=0.66)
        axes.text(rate * 1.12, y, f"{rate:,.3g}" if rate < 100 else f"{rate:,.0f}", **label)
    _log_axis(axes)
    axes.set_xlim(start, start * (fastest / start) ** 1.15 * 2)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    axes.spines["bottom"].set_visible(True)
    axes.grid(axis="x", color=_RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    pairs = zip(names, rows_per_s, strict=True)
    told = ", ".join(f"{name} {rate:,.3g}" for name, rate in pairs)
    return _svg(figure, f"Rows per second of one core by stage, logarithmic: {told}.")


def bars(title: str, names: Sequence[str], values: Sequence[int]) -> str:
    """Draw one bar per name, with its number."""
    figure, axes = _canvas(3.8, _ROW_IN * len(names) + 0.1)
    axes.barh(range(len(names)), values, color=_KEEP, height=0.66)
    for y, value in enumerate(values):
        axes.text(value + max(values) * 0.015, y, f"{value:,}", va="center", color=_INK)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, max(values) * 1.25)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.xaxis.set_visible(False)
    told = ", ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))
    return _svg(figure, f"{title}. {told}.")


def _drawn(measure: Measure) -> list[float]:
    """Return the thresholds that the measure's axis can show."""
    return [t for t in measure.thresholds if t > 0 or not measure.log]


def _edges(measure: Measure) -> npt.NDArray[np.float64]:
    """Choose bins that hold nearly all values and every threshold; the rest goes to the ends."""
    low, high = np.quantile(measure.values, (0.005, 0.995))
    if measure.log:
        positive = measure.values[measure.values > 0]
        low = max(low, float(positive.min()) if len(positive) else 1.0)
        high = max(high, low)
    low, high = min([low, *_drawn(measure)]), max([high, *_drawn(measure)])
    if measure.log:
        return np.geomspace(low / 1.15, high * 1.15, _BINS + 1)
    room = (high - low) * 0.05 or 0.5
    return np.linspace(low - room, high + room, _BINS + 1)


def _canvas(width_in: float, height_in: float) -> tuple["Figure", "Axes"]:
    """Return an empty figure without a frame; labels are drawn outside and cropped around."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in))
    figure.patch.set_visible(False)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.patch.set_visible(False)
    for side in axes.spines.values():
        side.set_visible(False)
        side.set_color(_RULE)
    axes.tick_params(length=0, colors=_MUTED, labelsize=10, pad=5)
    return figure, axes


def _log_axis(axes: "Axes") -> None:
    """Make the horizontal axis logarithmic, with its powers of ten written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=8))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _svg(figure: "Figure", told: str) -> str:
    """Return ``figure`` as an inline SVG element that says ``told`` to who cannot see it."""
    import matplotlib

    page = StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": told}):
        figure.savefig(
            page, format="svg", bbox_inches="tight", pad_inches=0.04, metadata=no_metadata
        )
    drawing = page.getvalue()
    for placeholder, variable in _VARIABLES.items():
        drawing = drawing.replace(placeholder, f"var({variable})")
    drawing = _PAGE_WIDE.sub("", drawing)
    start = drawing.index("<svg ") + len("<svg ")
    return f'<svg role="img" aria-label="{escape(told)}" {drawing[start:].strip()}'
