"""How fast captions come: captions and output tokens per second, while they do and afterwards."""

import time
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.storage import Folder
from pipelines.dedupe import read
from pipelines.job import Run
from pipelines.progress import LINE_EVERY_S, Reporter

SUMMARY = "summary.json"
_TOLD = [
    "caption_output_tokens", "caption_input_tokens", "caption_redacted", "caption_source",
    "caption_model", "caption_prompt", "status", "rejected_by", "error",
]  # fmt: skip
_NUMBERS = (
    "captions", "kept", "names_redacted", "input_tokens", "output_tokens", "seconds",
    "captions_per_s", "output_tokens_per_s",
)  # fmt: skip


def summary(told: Folder, seconds: float, before: int = 0) -> dict[str, Any]:
    """Say how many captions there are, what they took, how fast they came, and which are no good.

    Args:
        told: The job's rows.
        seconds: Wall time of this try.
        before: Rows that an earlier try has written, which do not count towards the rates.
    """
    rows = read(told, _TOLD)
    tokens = {way: pc.sum(rows[f"caption_{way}_tokens"]).as_py() or 0 for way in
              ("input", "output")}  # fmt: skip
    new = max(rows.num_rows - before, 0)
    share = new / max(rows.num_rows, 1)
    return {
        "captions": rows.num_rows,
        "kept": pc.sum(pc.equal(rows["status"], "keep")).as_py() or 0,
        "reject": tally(rows.filter(pc.equal(rows["error"], ""))["rejected_by"]),
        "error": tally(rows["error"]),
        "names_redacted": pc.sum(rows["caption_redacted"]).as_py() or 0,
        "sources": tally(rows["caption_source"]),
        "models": tally(rows["caption_model"]),
        "prompts": tally(rows["caption_prompt"]),
        "input_tokens": tokens["input"],
        "output_tokens": tokens["output"],
        "seconds": round(seconds, 2),
        "captions_per_s": round(new / max(seconds, 1e-9), 3),
        "output_tokens_per_s": round(share * tokens["output"] / max(seconds, 1e-9), 3),
    }


def tally(column: pa.ChunkedArray) -> dict[str, int]:
    """Count each value but the empty one, by name."""
    counted = pc.value_counts(column).to_pylist()
    return dict(sorted((item["values"], item["counts"]) for item in counted if item["values"]))


def read_summary(run: Run) -> dict[str, Any]:
    """Read what a run's captions took, in whichever run they were made; empty without any."""
    told = next((job for job in run.jobs if job.job == "caption"), None)
    if told is None:
        return {}
    home = run.store / told.data.partition("/")[0] / "caption"
    return home.read_json(SUMMARY) or {}


def metrics(told: Mapping[str, Any]) -> dict[str, float]:
    """Name the numbers of a summary as MLflow's metrics."""
    if not told:
        return {}
    named = {f"captions.{name}": told[name] for name in _NUMBERS}
    for verdict in ("reject", "error"):
        named |= {f"captions.{verdict}.{why}": count for why, count in told[verdict].items()}
    return named


class Pace(Reporter):
    """Shows what another reporter shows, and now and then how many tokens come per second."""

    def __init__(self, other: Reporter, target: Folder) -> None:
        super().__init__(other.console, other.run)
        self._target, self._counted = target, set(target.files(".parquet"))
        self._tokens, self._since = 0, time.monotonic()
        self._told = self._since

    def rows(self, done: int) -> None:
        """Say how many rows are done, and how fast tokens are written."""
        super().rows(done)
        now = time.monotonic()
        if now - self._told < LINE_EVERY_S:
            return
        self._told = now
        for path in self._target.files(".parquet"):
            if path not in self._counted:
                self._tokens += _tokens(self._target, path, self._counted)
        if self._tokens:
            rate = self._tokens / (now - self._since)
            self.console.print(f"caption: {rate:,.1f} output tokens/s", highlight=False)


def _tokens(folder: Folder, path: str, counted: set[str]) -> int:
    """Count the output tokens of one file; one that is still being written counts later."""
    name = "caption_output_tokens"
    try:
        rows = pq.read_table(path, filesystem=folder.fs, columns=[name], partitioning=None)
    except (pa.ArrowInvalid, OSError):
        return 0
    counted.add(path)
    return pc.sum(rows[name]).as_py() or 0
