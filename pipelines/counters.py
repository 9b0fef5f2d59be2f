"""What curation tells Prometheus while it works: each worker counts its own rows.

The numbers are named in infra/metrics.py. A row is counted once, when its fate is known: errors and
rejections during ingest by the workers, all others when the whole run is decided.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from infra.metrics import count
from pipelines.job import JobRecord

RUN = "visage.run"
"""Where Ray Data's context, which reaches every worker, keeps the run's name."""


def count_batch(run: str, before: pa.Table, after: pa.Table, stages: Sequence[str]) -> None:
    """Count what some stages have done to a batch.

    Args:
        run: The run's name.
        before: The rows as they came. Those that no stage has seen yet are counted as ingested.
        after: The same rows, with ``error``, ``rejected_by`` and ``timings``.
        stages: Names of the stages in between.
    """
    if after.num_rows == 0:
        return
    settled = after
    if "timings" not in before.column_names:
        count("visage_ingested_rows", after.num_rows, run=run)
    else:
        undecided = pc.and_(pc.equal(before["error"], ""), pc.equal(before["rejected_by"], ""))
        settled = after.filter(undecided)
    wrong = pc.not_equal(settled["error"], "")
    _count_rows(run, "error", _tally(settled.filter(wrong)["error"]))
    _count_rows(run, "reject", _tally(settled.filter(pc.invert(wrong))["rejected_by"]))
    timings = after["timings"].combine_chunks()
    spent = pa.table({"stage": timings.keys, "s": timings.items}).group_by("stage")
    for row in spent.aggregate([("s", "sum"), ("s", "count")]).to_pylist():
        if row["stage"] in stages:
            _count_stage(run, row["stage"], row["s_count"], row["s_sum"])


def count_decided(run: str, ingested: JobRecord, judged: JobRecord, decided: JobRecord) -> None:
    """Count the rows that only the rules and the whole run decide: kept ones, and the rest."""
    if not judged.reused:
        for stage, (rows, seconds) in judged.stage_seconds.items():
            _count_stage(run, stage, rows, seconds)
    if not decided.reused:
        _count_rows(run, "keep", {"": decided.keep})
        here = {name: n - ingested.reject.get(name, 0) for name, n in decided.reject.items()}
        _count_rows(run, "reject", here)


def _count_rows(run: str, status: str, rows: Mapping[str, int]) -> None:
    for reason, n in rows.items():
        if n > 0:
            count("visage_rows", n, run=run, status=status, reason=reason)


def _count_stage(run: str, stage: str, rows: int, seconds: float) -> None:
    count("visage_stage_rows", rows, run=run, stage=stage)
    if seconds > 0:
        count("visage_stage_seconds", seconds, run=run, stage=stage)


def _tally(reasons: pa.ChunkedArray) -> dict[str, int]:
    """Count each reason but the empty one."""
    counted = pc.value_counts(reasons).to_pylist()
    return {item["values"]: item["counts"] for item in counted if item["values"]}
