"""A run and its jobs: done once, found again, finished after a crash.

A store holds runs, a run holds jobs, and a job is done when its ``job.json`` says so. What decides
a job's result makes its fingerprint: its settings, its input, its models, the version. The same
fingerprint finished anywhere in the store is not computed again: the new run points to it.
"""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from infra.cluster import ROOT
from infra.configuration import digest, to_dict
from infra.errors import RunInUse
from infra.storage import Folder
from stages.models.faces import ModelCard


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """What ``job.json`` says."""

    job: str
    fingerprint: str
    data: str
    """Where the rows are, relative to the store."""
    output: str = ""
    """What the next job's fingerprint is made from."""
    rows: int = 0
    keep: int = 0
    reject: dict[str, int] = field(default_factory=dict)
    error: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    stage_seconds: dict[str, tuple[int, float]] = field(default_factory=dict)
    """By stage: rows it was given, and busy seconds over all workers."""
    models: tuple[dict[str, str], ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    code: str = ""
    finished_at: str = ""
    """UTC; empty while the job is under way."""
    reused: bool = False
    """Whether this call found the job done."""


@lru_cache(maxsize=1)
def code_version() -> str:
    """Return the installed version and, in a checkout, the commit: ``0.1.0+g1a2b3c4``."""
    installed = version("visage")
    try:
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--match", "v[0-9]*"],
            cwd=ROOT, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return installed
    return f"{installed}+g{asked.stdout.strip()}"


def utc_now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def locked(folder: Folder) -> Iterator[None]:
    """Keep other processes of this machine from working on the same run.

    Raises:
        RunInUse: One already is.
    """
    if not folder.is_local:
        yield
        return
    # Here, for who only reads records needs no lock's library.
    from filelock import FileLock, Timeout

    # Freed by the operating system when the process dies, however it dies.
    path = f"{folder.path}/.lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunInUse(Path(folder.path).name, path) from None
    try:
        yield
    finally:
        lock.release()


class Run:
    """One folder of a store, in which one recipe is carried out on one source."""

    def __init__(self, store: Folder, name: str) -> None:
        self.store, self.name = store, name
        self.folder = (store / name).make()
        self.jobs: list[JobRecord] = []

    def do(
        self,
        job: str,
        work: Callable[[Folder], object],
        *,
        settings: Mapping[str, Any],
        inputs: Sequence[str],
        models: Sequence[ModelCard] = (),
        data: str = "",
        counted: str = ".parquet",
    ) -> JobRecord:
        """Do a job, or find it done.

        Args:
            job: Its name, and its folder's.
            work: Given the folder for the job's rows, fills it. May return a digest from which
                the next job's fingerprint is made, if that is narrower than this job's own.
                After a crash it is called again with what the first call left there.
            settings: All of the recipe that decides the result.
            inputs: The ``output`` of the jobs before.
            models: The models that decide the result.
            data: The folder for the rows, relative to the run; normally inside the job's own.
            counted: How the files there end whose rows the record counts.
        """
        settings = to_dict(settings)
        cards = tuple(asdict(card) for card in models)
        fingerprint = digest(job, settings, list(inputs), list(cards), version("visage"))
        found = self._find(job, fingerprint)
        if found is not None:
            record = replace(found, reused=True)
            if not record.data.startswith(f"{self.name}/"):
                (self.folder / job).clear()
                (self.folder / job).write_json("job.json", asdict(found))
            self.jobs.append(record)
            return record
        home = self.folder / job
        data = data or f"{job}/data"
        before = home.read_json("job.json")
        if before is None or before["fingerprint"] != fingerprint:
            home.clear()
            (self.folder / data).clear()
        begun = JobRecord(
            job=job, fingerprint=fingerprint, data=f"{self.name}/{data}",
            settings=dict(settings), models=cards, code=code_version(),
        )  # fmt: skip
        home.write_json("job.json", asdict(begun))
        began = time.monotonic()
        output = work((self.folder / data).make())
        record = replace(
            begun,
            output=output if isinstance(output, str) else fingerprint,
            seconds=round(time.monotonic() - began, 2),
            finished_at=utc_now(),
            **counts(self.store / begun.data, counted),
        )
        home.write_json("job.json", asdict(record))
        (home / "checkpoint").clear()
        self.jobs.append(record)
        return record

    def data(self, record: JobRecord) -> Folder:
        """Return the folder with a job's rows, which may lie in another run."""
        return self.store / record.data

    def _find(self, job: str, fingerprint: str) -> JobRecord | None:
        """Look for the finished job, here first and then in the other runs of the store."""
        others = (folder for folder in self.store.folders() if folder.name != self.name)
        for folder in (self.folder, *others):
            seen = (folder / job).read_json("job.json")
            if seen and seen["fingerprint"] == fingerprint and seen["finished_at"]:
                record = JobRecord(**seen)
                if (self.store / record.data).exists():
                    return record
        return None


def counts(data: Folder, ending: str = ".parquet") -> dict[str, Any]:
    """Count a job's rows by status, reason and stage, from what it wrote."""
    files = data.files(ending)
    if not files:
        return {}
    rows = pads.dataset(files, filesystem=data.fs, format="parquet", partitioning="hive",
                        partition_base_dir=data.path)  # fmt: skip
    if "rejected_by" not in rows.schema.names:
        return {"rows": rows.count_rows(), "keep": rows.count_rows()}
    timed = ["timings"] if "timings" in rows.schema.names else []
    rejects: dict[str, int] = {}
    errors: dict[str, int] = {}
    spent: dict[str, tuple[int, float]] = {}
    total = 0
    for batch in rows.to_batches(columns=["rejected_by", "error", *timed]):
        total += batch.num_rows
        table = pa.table({"rejected_by": batch["rejected_by"], "error": batch["error"]})
        for reason, n in _tally(table.filter(pc.equal(table["error"], ""))["rejected_by"]):
            rejects[reason] = rejects.get(reason, 0) + n
        for reason, n in _tally(table["error"]):
            errors[reason] = errors.get(reason, 0) + n
        if timed:
            for stage, n, seconds in _stage_seconds(batch["timings"]):
                had = spent.get(stage, (0, 0.0))
                spent[stage] = (had[0] + n, had[1] + seconds)
    kept = total - sum(rejects.values()) - sum(errors.values())
    return {
        "rows": total,
        "keep": kept,
        "reject": dict(sorted(rejects.items())),
        "error": dict(sorted(errors.items())),
        "stage_seconds": {stage: (n, round(s, 3)) for stage, (n, s) in spent.items()},
    }


def _tally(column: pa.Array) -> list[tuple[str, int]]:
    """Count each value but the empty one."""
    counted = pc.value_counts(column).to_pylist()
    return [(item["values"], item["counts"]) for item in counted if item["values"]]


def _stage_seconds(timings: pa.MapArray) -> list[tuple[str, int, float]]:
    """Sum seconds by stage over a map column."""
    flat = pa.table({"stage": timings.keys, "s": timings.items})
    summed = flat.group_by("stage").aggregate([("s", "count"), ("s", "sum")]).to_pylist()
    return [(row["stage"], row["s_count"], row["s_sum"]) for row in summed]
