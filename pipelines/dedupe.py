"""Mark the pictures that are there more than once, over the whole run, and write the decisions."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from infra.storage import Folder
from pipelines.recipes import DedupeSettings
from stages.columns import DECISIONS, schema
from stages.duplicates import find_duplicates

ROWS_PER_FILE = 1_000_000
_COMPARED = [
    "id", "sha256", "pdq", "pdq_mirror", "pdq_quality", "width_px", "height_px",
    "face_sharpness", "bytes_len",
]  # fmt: skip


def dedupe(judged: Folder, settings: DedupeSettings, target: Folder) -> None:
    """Write ``decisions``: one light row per input row, sorted by id.

    Sorted, and written with fixed settings, the files are the same byte for byte whatever the
    number of workers or the blocks in which rows came.
    """
    target.clear()
    target.make()
    rows = read(judged, [*DECISIONS, *_COMPARED])
    kept = rows.filter(pc.equal(rows["status"], "keep")).select(_COMPARED)
    found = find_duplicates(
        kept,
        max_pdq_distance=settings.max_pdq_distance,
        min_pdq_quality=settings.min_pdq_quality,
        mirrored=settings.mirrored,
    )
    decisions = mark(rows.select(DECISIONS), found).sort_by("id")
    for number, start in enumerate(range(0, max(decisions.num_rows, 1), ROWS_PER_FILE)):
        part = decisions.slice(start, ROWS_PER_FILE).combine_chunks()
        target.write_table(f"part-{number:05d}.parquet", part)


def mark(rows: pa.Table, found: pa.Table) -> pa.Table:
    """Reject the rows that ``found`` names, and say which row they repeat."""
    at = pc.index_in(rows["id"], value_set=found["id"].combine_chunks())
    hit = pc.is_valid(at)
    kind = pc.take(found["dup_kind"].combine_chunks(), at)
    changed = {
        "dup_of": pc.if_else(hit, pc.take(found["dup_of"].combine_chunks(), at), rows["dup_of"]),
        "dup_kind": pc.if_else(hit, kind, rows["dup_kind"]),
        "rejected_by": pc.if_else(
            hit, pc.binary_join_element_wise(kind, "duplicate", "_"), rows["rejected_by"]
        ),
        "status": pc.if_else(hit, "reject", rows["status"]),
    }
    columns = {name: changed.get(name, rows[name]) for name in rows.column_names}
    return pa.table(columns).cast(schema(rows.column_names))


def read(folder: Folder, columns: Sequence[str]) -> pa.Table:
    """Read some columns of a job's rows, of all statuses."""
    files = folder.files(".parquet")
    if not files:
        return schema(dict.fromkeys(columns)).empty_table()
    split = pads.partitioning(pa.schema([("status", pa.string())]), flavor="hive")
    rows = pads.dataset(
        files,
        filesystem=folder.fs,
        format="parquet",
        # Jobs that Ray writes keep the status in the path, the decisions keep it in the file.
        partitioning=split if any("/status=" in path for path in files) else None,
        partition_base_dir=folder.path,
    )
    return rows.to_table(columns=list(dict.fromkeys(columns)))
