"""Run stages one after the other over a table, keeping the promises of the row model.

This is all that happens inside a worker, and it knows nothing of Ray: a test or a plain loop calls
it with a table.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from infra.errors import BrokenPromise, MissingColumns, VisageError
from stages.columns import COLUMNS
from stages.types import Batch, Column, Stage

# Seconds are kept per row; a stage that shares columns with another needs its own name here.
_VERDICTS = ("rejected_by", "error", "error_detail")


class Chain:
    """Some stages that share a worker, as one step from table to table.

    * A stage is handed only the rows that nothing has rejected so far; the others pass by.
    * When a stage raises, its rows are tried one by one: only the poison row becomes an error.
    * What comes back is cast to the declared Arrow types; in-memory columns end here.
    * Every row carries the seconds that each stage spent on it, and its status.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return ``table`` with the columns that the stages write, row for row."""
        rows = table.num_rows
        values = self._load(table)
        timings: list[dict[str, float]] = _timings(table)
        for stage in self.stages:
            live = [
                i for i in range(rows) if not values["rejected_by"][i] and not values["error"][i]
            ]
            for name in stage.writes:
                values.setdefault(name, [None] * rows)
            if not live:
                continue
            began = time.perf_counter()
            out = run_stage(stage, {name: [values[name][i] for i in live] for name in stage.reads})
            share_s = (time.perf_counter() - began) / len(live)
            for name, column in out.items():
                held = values[name]
                for i, value in zip(live, column, strict=True):
                    held[i] = value
            for i in live:
                timings[i][type(stage).__name__] = share_s
        return self._store(table, values, timings)

    def _load(self, table: pa.Table) -> dict[str, list[Any]]:
        """Take from ``table`` the columns that the stages and the verdicts need, as lists."""
        written: set[str] = set()
        wanted: list[str] = list(_VERDICTS)
        for stage in self.stages:
            missing = set(stage.reads) - written - set(table.column_names)
            if missing:
                present = [*table.column_names, *sorted(written)]
                raise MissingColumns(type(stage).__name__, sorted(missing), present)
            wanted += [name for name in stage.reads if name not in written]
            written |= set(stage.writes)
        blank = [""] * table.num_rows
        return {
            name: table[name].to_pylist() if name in table.column_names else list(blank)
            for name in dict.fromkeys(wanted)
        }

    def _store(
        self, table: pa.Table, values: dict[str, list[Any]], timings: list[dict[str, float]]
    ) -> pa.Table:
        """Put what was written, and the status, into ``table``."""
        changed = dict.fromkeys(_VERDICTS)
        changed.update(dict.fromkeys(name for stage in self.stages for name in stage.writes))
        for name in changed:
            if not COLUMNS[name].in_memory_only:
                table = _put(table, name, as_arrow(name, values[name]))
        statuses = [
            "error" if error else "reject" if rejected else "keep"
            for error, rejected in zip(values["error"], values["rejected_by"], strict=True)
        ]
        table = _put(table, "status", as_arrow("status", statuses))
        return _put(table, "timings", as_arrow("timings", [list(t.items()) for t in timings]))


def run_stage(stage: Stage, batch: Batch) -> dict[str, Column]:
    """Call a stage; if it raises, call it row by row and give the rows that fail their error.

    Raises:
        BrokenPromise: The stage returned other columns or another number of rows than declared.
    """
    rows = len(next(iter(batch.values())))
    try:
        return _checked(stage, stage(batch), rows)
    except VisageError:
        raise
    except Exception as error:
        if rows == 1:
            return _failed(stage, error)
    singles = [run_stage(stage, {k: v[i : i + 1] for k, v in batch.items()}) for i in range(rows)]
    names = dict.fromkeys(name for single in singles for name in single)
    blank = dict.fromkeys(_VERDICTS, "")
    return {
        name: [single[name][0] if name in single else blank.get(name) for single in singles]
        for name in names
    }


def _failed(stage: Stage, error: Exception) -> dict[str, Column]:
    """Say that a stage could not do one row."""
    out: dict[str, Column] = {name: [None] for name in stage.writes if name not in _VERDICTS}
    words = f"{type(stage).__name__}: {type(error).__name__}: {error}"
    return out | {"error": ["stage_failed"], "error_detail": [words[:500]]}


def _checked(stage: Stage, out: Batch, rows: int) -> dict[str, Column]:
    """Return ``out`` if it is what the stage declared."""
    if set(out) != set(stage.writes):
        raise BrokenPromise(
            type(stage).__name__, f"the columns {sorted(stage.writes)}", f"{sorted(out)}"
        )
    for name, column in out.items():
        if len(column) != rows:
            raise BrokenPromise(
                type(stage).__name__, f"{rows} rows in {name!r}", f"{len(column)} rows"
            )
    return dict(out)


def as_arrow(name: str, column: Sequence[Any]) -> pa.Array:
    """Cast one column to its declared Arrow type; arrays of two axes become lists of lists."""
    rows = [list(v) if isinstance(v, np.ndarray) and v.ndim > 1 else v for v in column]
    return pa.array(rows, type=COLUMNS[name].type, from_pandas=False)


def _timings(table: pa.Table) -> list[dict[str, float]]:
    if "timings" not in table.column_names:
        return [{} for _ in range(table.num_rows)]
    return [dict(pairs or ()) for pairs in table["timings"].to_pylist()]


def _put(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    """Replace a column or append it."""
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)


def put_text(table: pa.Table, name: str, value: str) -> pa.Table:
    """Give a text column the same value in every row."""
    return _put(table, name, as_arrow(name, [value] * table.num_rows))
