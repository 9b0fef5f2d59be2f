"""A second chance: rows of a finished run whose trouble may have passed are fetched again.

All other rows stay as they are. A retry is a job of its own, ``ingest-retry-1`` and so on: some
rows through the same stages once more, and ``view.json``, which lists the files that hold the
run's rows from then on: those of the retry, the files that none of its rows was in, untouched, and
what is left of the others. A run that takes over another's finished ingest takes over its finished
retries too.

A refresh is a retry of all rows of which the server named a version. They are fetched only if they
are another one now. A row stays as it was when it is not, and when the server cannot be asked; it
is an error from then on where the server says that it is gone, or no longer for us.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from rich.console import Console

from infra.errors import BadValue, nearest
from infra.storage import Folder
from pipelines.job import JobRecord, Run
from stages.columns import ERRORS, SEED, schema

NOTE = "retry.json"
"""In a run's folder from the beginning of a retry until all that follows from it is redone."""
_JOB = re.compile(r"ingest-retry-([1-9][0-9]*)")
_FLAG = "--retry-errors"
_VERSIONS = ("etag", "last_modified")
_GONE = (401, 403, 404, 410, 451)
_NO_LONGER_OURS = ("opted_out", "robots_disallowed")


@dataclass(frozen=True)
class Again:
    """Which retry is under way, and which errors it tries again."""

    number: int
    errors: tuple[str, ...]
    refresh: bool = False
    """Whether it asks for other versions of whatever there is, instead."""

    @property
    def job(self) -> str:
        """Its job's name."""
        return f"ingest-retry-{self.number}"


@dataclass(frozen=True)
class View(Folder):
    """Some files of a folder, as if it held no others."""

    listed: tuple[str, ...] = ()

    def files(self, ending: str = "") -> list[str]:
        """List the paths of the files in view, sorted."""
        return sorted(path for path in self.listed if path.endswith(ending))


class RetriedRun(Run):
    """A run whose ingested rows may lie in several folders."""

    def data(self, record: JobRecord) -> Folder:
        """Return the folder with a job's rows; those of ingest after the last retry."""
        if record.job != "ingest" or (home := self._retried(record)) is None:
            return super().data(record)
        seen = (home / _last(home)[0]).read_json("view.json") or {"files": []}
        return View(self.store.fs, self.store.path, tuple(
            f"{self.store.path}/{name}" for name in seen["files"]
        ))  # fmt: skip

    def ingested(self, record: JobRecord) -> list[str]:
        """Return what later jobs' fingerprints are made from."""
        home = self._retried(record)
        return [record.output] if home is None else [record.output, _last(home)[1]]

    def _retried(self, record: JobRecord) -> Folder | None:
        """Return the run whose last retry counts: this one's own goes before that it took over."""
        homes = (self.folder, self.store / record.data.partition("/")[0])
        return next((home for home in homes if _last(home)[0]), None)


def chosen(text: str) -> tuple[str, ...]:
    """Read the errors that the command line names, separated by commas.

    Raises:
        BadValue: There is no such error; the message offers the nearest one.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in ERRORS:
            raise BadValue(_FLAG, name, nearest(name, ERRORS))
    return names


def begin(
    run: Run, errors: tuple[str, ...], console: Console, refresh: bool = False
) -> Again | None:
    """Begin a retry, or find the one that an interruption left; None if there is nothing to try.

    From here until ``end`` the run is unfinished: the same command, or the plain one, goes on.

    Raises:
        BadValue: The run is not finished, or another retry of it is not.
    """
    flag, value = ("--refresh", "given") if refresh else (_FLAG, ",".join(errors))
    if errors and refresh:
        raise BadValue(flag, value, f"give it and {_FLAG} one after the other.")
    if pending := run.folder.read_json(NOTE):
        again = Again(pending["number"], tuple(pending["errors"]), pending["refresh"])
        if (errors or refresh) and (errors, refresh) != (again.errors, again.refresh):
            what = "to refresh" if again.refresh else f"trying {','.join(again.errors)} again"
            raise BadValue(flag, value, f"{run.name} is still {what}; finish that first.")
        return again
    if not errors and not refresh:
        return None
    finished = run.folder.read_json("run.json")
    if finished is None:
        cure = f"{run.name} is not finished; give the same command without {flag} first."
        raise BadValue(flag, value, cure)
    if errors and not any(finished["error"].get(error) for error in errors):
        console.print(f"No row of {run.name} ended as {' or '.join(errors)}: nothing to try again.")
        return None
    last = _JOB.fullmatch(_last(run.folder)[0])
    again = Again(1 + int(last[1] if last else 0), errors, refresh)
    run.folder.write_json(NOTE, asdict(again))
    run.folder.fs.delete_file(f"{run.folder.path}/run.json")
    return again


def end(run: Run) -> None:
    """Note that all that follows from a retry is done."""
    if run.folder.exists(NOTE):
        run.folder.fs.delete_file(f"{run.folder.path}/{NOTE}")


def retry(
    run: RetriedRun,
    again: Again,
    seeded: Folder,
    ingested: JobRecord,
    target: Folder,
    carry: Callable[[Folder, Folder, Folder], None],
) -> None:
    """Bring some rows through ingest again, and put them into view.

    Args:
        run: The run.
        again: Which retry, and of what.
        seeded: The rows as they were before ingest.
        ingested: What ingest, and the retries before, brought.
        target: Gets the rows that are tried again.
        carry: Given rows, their target and a folder for notes, brings them through ingest.
    """
    home, store = run.folder / again.job, run.store
    before = run.data(ingested).files(".parquet")
    (home / "rows").write_table("part.parquet", _to_try(store, seeded, before, again))
    carry(home / "rows", target, home / "checkpoint")
    brought = target.files(".parquet")
    aside = _as_before(store, brought) if again.refresh else pa.array([], pa.string())
    ids = _read(store, brought, ["id"])["id"].combine_chunks()
    replaced = ids.filter(pc.invert(pc.is_in(ids, value_set=aside)))
    files = [
        *_without(store, replaced, before, home / "left"),
        *_without(store, aside, brought, home / "new"),
    ]
    names = sorted(path.removeprefix(f"{store.path}/") for path in files)
    home.write_json("view.json", {"files": names})


def _to_try(store: Folder, seeded: Folder, before: Sequence[str], again: Again) -> pa.Table:
    """Return the rows to try, as they were before ingest; without those that failed by then."""
    ended = _read(store, before, ["id", "error", *(_VERSIONS if again.refresh else ())])
    if again.refresh:
        named = pc.not_equal(pc.binary_join_element_wise(*_texts(ended, _VERSIONS), ""), "")
        ended = ended.filter(pc.and_(pc.equal(ended["error"], ""), named))
    else:
        ended = ended.filter(pc.is_in(ended["error"], value_set=pa.array(again.errors)))
    ids = ended["id"].combine_chunks()
    rows = pads.dataset(seeded.files(".parquet"), filesystem=seeded.fs, format="parquet")
    wanted = pc.field("id").isin(ids) & (pc.field("error") == "")
    chosen = rows.to_table(columns=SEED, filter=wanted)
    if again.refresh:
        at = pc.index_in(chosen["id"], value_set=ids)
        for name in _VERSIONS:
            chosen = chosen.append_column(name, pc.take(ended[name], at))
    return chosen


def _texts(rows: pa.Table, names: Sequence[str]) -> list[pa.ChunkedArray]:
    return [pc.fill_null(rows[name], "") for name in names]


def _as_before(store: Folder, paths: Sequence[str]) -> pa.Array:
    """Return the ids of refreshed rows that are neither another version nor gone."""
    brought = _read(store, paths, ["id", "error", "http_status", "bytes_len"])
    refused = pc.is_in(brought["error"], value_set=pa.array(_NO_LONGER_OURS))
    gone = pc.is_in(brought["http_status"], value_set=pa.array(_GONE, pa.int16()))
    gone = pc.or_(refused, pc.and_(pc.equal(brought["error"], "http_4xx"), gone))
    missed = pc.and_(pc.not_equal(brought["error"], ""), pc.is_null(brought["bytes_len"]))
    return brought.filter(pc.and_(missed, pc.invert(gone)))["id"].combine_chunks()


def _without(store: Folder, ids: pa.Array, paths: Sequence[str], into: Folder) -> list[str]:
    """List files that hold the rows of ``paths`` but ``ids``: what can stay as it is, does."""
    into.clear()
    files = []
    for number, path in enumerate(paths):
        here = pc.is_in(_read(store, [path], ["id"])["id"], value_set=ids)
        if not pc.any(here).as_py():
            files.append(path)
        elif not pc.all(here).as_py():
            rows = pq.read_table(path, filesystem=store.fs, partitioning=None)
            name = f"{path.split('/')[-2]}/part-{number:05d}.parquet"  # status=...
            into.write_table(name, rows.filter(pc.invert(here)).combine_chunks())
            files.append(f"{into.path}/{name}")
    return files


def _read(store: Folder, paths: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Read some columns of some files, without what their paths say."""
    empty = schema(columns).empty_table()
    tables = [
        pq.read_table(path, filesystem=store.fs, columns=list(columns), partitioning=None)
        for path in paths
    ]
    return pa.concat_tables([empty, *tables], promote_options="default")


def _last(home: Folder) -> tuple[str, str]:
    """Return name and output of a run's last finished retry; two empty strings without any."""
    found = [(int(match[1]), f) for f in home.folders() if (match := _JOB.fullmatch(f.name))]
    for _, folder in sorted(found, key=lambda item: item[0], reverse=True):
        record = folder.read_json("job.json")
        if record and record["finished_at"]:
            return folder.name, record["output"]
    return "", ""
