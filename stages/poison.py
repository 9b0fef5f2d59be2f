"""Rows that kill the process that works on them: found, named, and passed by.

A stage that raises leaves a process that can say so; one that crashes leaves nobody. So a worker
notes the ids of the rows that it is about to work on in a small file, and takes the file away
when they are done. Whoever takes a dead worker's place finds the file. It does those rows in groups
of a sixteenth, then each of a group alone, until one row alone has twice been somebody's end: that
row ends as ``crashed``, and nobody touches it again. All other rows end as if nothing had been.

Processes also die for reasons of their own: ``kill -9``, the memory's end, a lost machine. They
do not make a row guilty, unless they strike three times in one batch, two of them at the same row.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from infra.errors import VisageError
from stages.chain import put_text

Work = Callable[[pa.Table], pa.Table]
DIVISOR = 16
"""Into how many groups rows are divided, one of which has killed a worker."""
HOPELESS_ROWS = 8
"""So many rows guilty in succession: then it is the stages that crash, whatever the picture."""
_ONCE, _GUILTY = 1, 0


class WorkersDie(VisageError):
    """A worker's process ends at every row."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        super().__init__(rows)

    def __str__(self) -> str:
        return (
            f"A worker's process died at {self.rows} rows in succession: that is no picture's "
            "fault. See Ray's logs for what killed it: too little memory (give --workers.lookers "
            "or --workers.batch-rows less), or a library that does not run on this machine."
        )


class Careful:
    """Work that outlives rows which kill.

    Args:
        work: Brings one row for one row, whatever the grouping; ``Chain`` does.
        note: Where the ids of the rows at work are noted. Its successor after a death must be given
            the same file, and nobody else.
    """

    def __init__(self, work: Work, note: Path) -> None:
        self.work = work
        self._note = note
        self._suspects: dict[str, int] = {}
        """By id: the size of the smallest group in which a row was somebody's end. A row that was
        it alone has ``_ONCE``, and one that was it twice ``_GUILTY``."""
        self._guilty_in_a_row = 0
        self._inherit()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return what ``work`` makes of the rows; of one that kills, an error.

        Raises:
            WorkersDie: No row can be done at all.
        """
        if self._guilty_in_a_row >= HOPELESS_ROWS:
            raise WorkersDie(self._guilty_in_a_row)
        if table.num_rows == 0:
            return self.work(table)
        return pa.concat_tables(list(self._groups(table)))

    def _groups(self, table: pa.Table) -> Iterator[pa.Table]:
        """Do rows one group after the other: all of them together, unless some are suspect."""
        ids = table["id"].to_pylist()
        start = 0
        for suspicion, run in groupby(ids, key=self._suspects.get):
            end = start + len(list(run))
            size = len(ids) if suspicion is None else max(1, suspicion // DIVISOR)
            for first in range(start, end, size):
                group = slice(first, min(first + size, end))
                rows = table.slice(first, group.stop - first)
                yield self._convict(rows) if suspicion == _GUILTY else self._do(rows, ids[group])
            start = end

    def _do(self, rows: pa.Table, ids: list[str]) -> pa.Table:
        self._write(ids)
        # Not in a `finally`: what ends this process must find the note written.
        done = self.work(rows)
        self._guilty_in_a_row = 0
        for row in ids:
            self._suspects.pop(row, None)
        self._write([])
        return done

    def _convict(self, rows: pa.Table) -> pa.Table:
        """Let a row pass as an error; no stage is handed such a row."""
        detail = "the worker's process died twice while it worked on this row alone"
        rows = put_text(put_text(rows, "error", "crashed"), "error_detail", detail)
        return self.work(rows)

    def _inherit(self) -> None:
        """Take over from a process that died at work, if one did."""
        try:
            left = json.loads(self._note.read_text())
        except FileNotFoundError:
            return
        self._suspects, self._guilty_in_a_row = left["suspects"], left["guilty_in_a_row"]
        ids = left["at_work"]
        if len(ids) == 1 and self._suspects.get(ids[0]) == _ONCE:
            self._suspects[ids[0]] = _GUILTY
            self._guilty_in_a_row += 1
        else:
            self._suspects.update(dict.fromkeys(ids, len(ids)))
        # What was inherited must not count again, should this process die without any work.
        self._write([])

    def _write(self, at_work: list[str]) -> None:
        """Note what a successor must know; nothing, if that is nothing."""
        if not at_work and not self._suspects:
            with suppress(FileNotFoundError):
                self._note.unlink()
            return
        note = {
            "at_work": at_work,
            "suspects": self._suspects,
            "guilty_in_a_row": self._guilty_in_a_row,
        }
        beside = self._note.with_suffix(".tmp")
        beside.write_text(json.dumps(note))
        beside.replace(self._note)
