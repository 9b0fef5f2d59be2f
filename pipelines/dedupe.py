"""Mark the pictures that are there more than once, over the whole run, and write the decisions."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from infra.errors import BadValue
from infra.storage import Folder
from stages.columns import DECISIONS, schema
from stages.copies.keepers import COMPARED, find_duplicates
from stages.copies.semantic import Points, first_vectors, on_grid
from stages.copies.settings import DedupeSettings
from stages.spread import HERE, Spread

ROWS_PER_FILE = 1_000_000
_VECTORS_AT_ONCE = 16_384


def dedupe(
    judged: Folder,
    settings: DedupeSettings,
    target: Folder,
    embedded: Folder | None = None,
    spread: Spread = HERE,
) -> None:
    """Write ``decisions``: one light row per input row, sorted by id.

    Sorted, and written with fixed settings, the files are the same byte for byte whatever the
    number of workers or the blocks in which rows came.

    Hashes and embeddings are compared in shards, on as many machines as ``spread`` has. Rows, equal
    files, groups and keepers stay in this process: measured with a million kept pictures, 1.2 GiB,
    and 1.7 GiB with embeddings of 128 numbers. So 64 GiB should do for 35 million. Every machine
    holds the hashes and embeddings that its shards read, 64 + 256 bytes per picture.

    Args:
        judged: Rows with a status, and all that is compared except embeddings.
        settings: When two pictures are one.
        target: Where to write.
        embedded: The same rows with their embeddings; None: ``judged`` has them.
        spread: Who compares hashes and embeddings.

    Raises:
        BadValue: The column of embeddings that ``settings`` names is not there or holds none.
    """
    target.clear()
    target.make()
    rows = read(judged, [*DECISIONS, *COMPARED])
    kept = rows.filter(pc.equal(rows["status"], "keep")).select(COMPARED)
    points = None
    if settings.semantic_column:
        points = _points(embedded or judged, settings.semantic_column, kept["id"])
    decisions = mark(rows.select(DECISIONS), find_duplicates(kept, settings, points, spread))
    decisions = decisions.sort_by("id")
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
    rows = _rows(folder)
    if rows is None:
        return schema(dict.fromkeys(columns)).empty_table()
    return rows.to_table(columns=list(dict.fromkeys(columns)))


def _rows(folder: Folder) -> pads.Dataset | None:
    """Open a job's rows, None where it has written none."""
    files = folder.files(".parquet")
    if not files:
        return None
    split = pads.partitioning(pa.schema([("status", pa.string())]), flavor="hive")
    return pads.dataset(
        files,
        filesystem=folder.fs,
        format="parquet",
        # Jobs that Ray writes keep the status in the path, the decisions keep it in the file.
        partitioning=split if any("/status=" in path for path in files) else None,
        partition_base_dir=folder.path,
    )


def _points(folder: Folder, column: str, ids: pa.ChunkedArray) -> Points:
    """Read an embedding for each of ``ids``: the row's own, or that of its first face."""
    rows, ids = _rows(folder), ids.combine_chunks()
    points = np.zeros((len(ids), 0), np.int16)
    if rows is None:
        return points
    if column not in rows.schema.names:
        cure = "the rows have no such column; name one of embeddings, such as face_embeddings."
        raise BadValue("dedupe.semantic_column", column, cure)
    batches = rows.to_batches(
        columns=["id", column],
        batch_size=_VECTORS_AT_ONCE,
        batch_readahead=1,  # by default gigabytes of vectors wait in memory
        fragment_readahead=1,
    )
    for batch in batches:
        at = pc.fill_null(pc.index_in(batch["id"], value_set=ids), -1).to_numpy()
        holders, vectors = first_vectors(batch[column])
        if not len(holders):
            continue  # rows without a face, or without a picture
        if not points.shape[1]:
            points = np.zeros((len(ids), vectors.shape[1]), np.int16)
        if vectors.shape[1] != points.shape[1]:
            cure = f"it has vectors of {points.shape[1]} and of {vectors.shape[1]} numbers."
            raise BadValue("dedupe.semantic_column", column, cure)
        wanted = at[holders] >= 0
        points[at[holders[wanted]]] = on_grid(vectors[wanted])
    return points
