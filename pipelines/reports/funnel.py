"""Where every row of a run went: kept, rejected by a rule, or in error. It sums to 100 %."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
from rich.table import Table

from infra.errors import UnaccountedRows
from stages.columns import ERRORS, REJECTIONS

KEPT = "kept"
"""The last step of every funnel."""

_FIRST_LOOK = "small_picture"
"""The first rule that needs the picture; what goes wrong in fetching goes wrong before it."""

Outcome = Literal["keep", "reject", "error"]


@dataclass(frozen=True, slots=True)
class Step:
    """The rows that left a run in one way."""

    name: str
    """A name in REJECTIONS or ERRORS, or ``KEPT``."""
    doc: str
    count: int
    share: float
    """Of all rows, 0 to 1."""

    @property
    def outcome(self) -> Outcome:
        """Say which status the rows of this step have."""
        return _outcome(self.name)


def funnel(decisions: pa.Table) -> list[Step]:
    """Count how the rows of a run ended, in the order in which they are judged.

    Rules that need no picture come first, then errors, then the rules that look, then ``KEPT``.
    Steps without a row are left out, but ``KEPT`` is always there.

    Args:
        decisions: One row per input row, with the columns status, rejected_by and error.

    Raises:
        UnaccountedRows: A row has an unknown status, or an unknown reason for its status.
    """
    counts = dict.fromkeys(_ORDER, 0)
    unknown = []
    endings = decisions.group_by(["status", "rejected_by", "error"]).aggregate([([], "count_all")])
    for row in sorted(endings.to_pylist(), key=str):
        status, number = row["status"] or "", row["count_all"]
        name = {"keep": KEPT, "reject": row["rejected_by"], "error": row["error"]}.get(status)
        if name in counts and _outcome(name) == status:
            counts[name] += number
        else:
            unknown.append((status, row["error"] or row["rejected_by"] or "", number))
    if unknown or sum(counts.values()) != decisions.num_rows:
        raise UnaccountedRows(unknown, decisions.num_rows)
    return [
        Step(name, _ORDER[name], count, count / max(decisions.num_rows, 1))
        for name, count in counts.items()
        if count or name == KEPT
    ]


def count(steps: Iterable[Step], outcome: Outcome) -> int:
    """Count the rows that ended in one way."""
    return sum(step.count for step in steps if step.outcome == outcome)


def percent(share: float) -> str:
    """Write a share of 0 to 1 as a percentage; what is little is not called nothing."""
    if 0 < share < 0.0005:
        return "<0.1 %"
    if 0.9995 <= share < 1:
        return ">99.9 %"
    return f"{100 * share:.1f} %"


def funnel_table(steps: Iterable[Step]) -> Table:
    """Lay the funnel out for a terminal."""
    steps = list(steps)
    table = Table(show_footer=True, box=None, pad_edge=False, header_style="bold")
    rows = sum(step.count for step in steps)
    table.add_column("step", footer="all rows")
    table.add_column("rows", footer=f"{rows:,}", justify="right")
    table.add_column("share", footer=percent(sum(step.share for step in steps)), justify="right")
    table.add_column("what it means")
    styles = {"keep": "green", "reject": "", "error": "red"}
    for step in steps:
        cells = (step.name, f"{step.count:,}", percent(step.share), step.doc)
        table.add_row(*cells, style=styles[step.outcome])
    return table


def _order() -> dict[str, str]:
    """Put all ways to end in the order in which they are met, each with its meaning."""
    names = list(REJECTIONS)
    first_look = names.index(_FIRST_LOOK)
    blind = {name: REJECTIONS[name] for name in names[:first_look]}
    seeing = {name: REJECTIONS[name] for name in names[first_look:]}
    return {**blind, **ERRORS, **seeing, KEPT: "passed every rule"}


def _outcome(name: str) -> Outcome:
    if name == KEPT:
        return "keep"
    return "reject" if name in REJECTIONS else "error"


_ORDER = _order()
