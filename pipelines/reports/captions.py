"""What a run's report tells of captions: what they took, which are no good, and some to read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.storage import Folder
from pipelines.captions.pace import read_summary
from pipelines.job import Run
from pipelines.reports.people import Read
from pipelines.reports.thumbnails import Thumbnail, thumbnail
from stages.columns import COLUMNS

_GOOD, _BAD = 8, 3
"""Captions that are shown: of those that are good enough, and of every reason why not."""
_TEXTS = ["id", "caption_merged", "caption_attributes", "caption_action", "rejected_by", "error",
          "error_detail"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Told:
    """One picture and what is said of it."""

    id: str
    ending: str
    """Why the caption is no good; empty where it is."""
    words: Mapping[str, str]
    """By column: the whole, the looks, the action; of an error what went wrong."""
    small: Thumbnail | None


@dataclass(frozen=True, slots=True)
class CaptionSections:
    """All that the report shows of captions."""

    summary: Mapping[str, Any]
    """See ``pipelines.captions.pace.summary``."""
    examples: list[Told]
    """Good ones first, then some of every reason."""
    docs: Mapping[str, str]
    """What the columns of their words mean."""


def caption_sections(run: Run, decisions: pa.Table, read: Read) -> CaptionSections | None:
    """Gather what the report shows of captions; None where no job wrote any.

    Args:
        run: The run, whose jobs are done.
        decisions: One row per input row, with ``id`` and ``status``.
        read: Brings the pictures of some rows.
    """
    summary = read_summary(run)
    if not summary:
        return None
    job = next(job for job in run.jobs if job.job == "caption")
    # What a later job rejected, or somebody had forgotten, is not shown as a good caption.
    kept = decisions.filter(pc.equal(decisions["status"], "keep"))["id"].combine_chunks()
    known = decisions["id"].combine_chunks()
    rows = _pick(run.data(job), summary, kept, known)
    held = read([row["id"] for row in rows])
    docs = {name: COLUMNS[name].doc for name in _TEXTS if name.startswith("caption_")}
    return CaptionSections(summary, [_told(row, held.get(row["id"], {})) for row in rows], docs)


def _pick(
    told: Folder, summary: Mapping[str, Any], kept: pa.Array, known: pa.Array
) -> list[dict[str, Any]]:
    """Take the first few rows of every ending, reading no more files than that needs."""
    endings = ["", *summary["reject"], *summary["error"]]
    chosen: dict[str, list[dict[str, Any]]] = {ending: [] for ending in endings}
    lacking = {ending: _BAD if ending else _GOOD for ending in endings}
    for path in told.files(".parquet"):
        if not any(lacking.values()):
            break
        rows = pq.read_table(path, filesystem=told.fs, columns=_TEXTS, partitioning=None)
        rows = rows.filter(pc.is_in(rows["id"], value_set=known))
        here = set(kept.filter(pc.is_in(kept, value_set=rows["id"].combine_chunks())).to_pylist())
        for row in rows.to_pylist():
            ending = row["error"] or row["rejected_by"]
            if lacking.get(ending) and (ending or row["id"] in here):
                chosen[ending].append(row)
                lacking[ending] -= 1
    return [row for rows in chosen.values() for row in rows]


def _told(row: Mapping[str, Any], picture: Mapping[str, Any]) -> Told:
    words = {name: row[name] for name in _TEXTS if name.startswith("caption_") and row[name]}
    if row["error"]:
        words = {"error_detail": row["error_detail"]}
    blob = picture.get("blob")
    small = thumbnail(blob, picture.get("face_boxes_px") or []) if blob else None
    return Told(row["id"], row["error"] or row["rejected_by"], words, small)
