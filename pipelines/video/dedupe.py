"""Clips that are there more than once, by their bytes: films are copied from site to site."""

import pyarrow as pa
import pyarrow.compute as pc

from infra.storage import Folder
from pipelines.dedupe import ROWS_PER_FILE, mark, read
from stages.columns import DECISIONS


def dedupe(judged: Folder, target: Folder) -> None:
    """Write the decisions, sorted by id: of clips with the same bytes the first by id stays.

    The same frames give the same clip, so that one film under two names is found; the same film
    encoded anew is not.

    Args:
        judged: Clips with a status and their ``sha256``.
        target: Where to write.
    """
    target.clear()
    target.make()
    rows = read(judged, [*DECISIONS, "sha256"]).sort_by("id")
    kept = rows.filter(pc.equal(rows["status"], "keep"))
    first: dict[str, str] = {}
    copies: list[dict[str, str]] = []
    for row, digest in zip(kept["id"].to_pylist(), kept["sha256"].to_pylist(), strict=True):
        if (keeper := first.setdefault(digest, row)) != row:
            copies.append({"id": row, "dup_of": keeper, "dup_kind": "exact"})
    found = pa.Table.from_pylist(
        copies, schema=pa.schema([(name, pa.string()) for name in ("id", "dup_of", "dup_kind")])
    )
    decisions = mark(rows.select(DECISIONS), found)
    for number, start in enumerate(range(0, max(decisions.num_rows, 1), ROWS_PER_FILE)):
        part = decisions.slice(start, ROWS_PER_FILE).combine_chunks()
        target.write_table(f"part-{number:05d}.parquet", part)
