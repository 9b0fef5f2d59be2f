"""Find pictures that are there more than once."""

from collections.abc import Iterator

import faiss
import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64, UInt8
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_QUERY_ROWS = 4096
"""Hashes asked at a time: bounds the memory for their matches."""


def near_pairs(
    hashes: UInt8[np.ndarray, "rows 32"],
    mirrors: UInt8[np.ndarray, "rows 32"] | None,
    max_distance: int,
) -> Int64[np.ndarray, "pairs 2"]:
    """List all pairs of rows whose perceptual hashes differ in few bits.

    Every pair is compared (faiss does 4e8 comparisons a second on two cores), so none is missed.

    Args:
        hashes: PDQ hashes, 256 bits packed into 32 bytes.
        mirrors: The hashes of the mirrored pictures, to find mirrored copies too.
        max_distance: Most bits that may differ, of 256. PDQ's authors suggest 31.

    References:
        "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm", Facebook, 2019.
    """
    index = faiss.IndexBinaryFlat(256)
    index.add(np.ascontiguousarray(hashes))
    found = [np.empty((0, 2), np.int64)]
    for queries in (hashes,) if mirrors is None else (hashes, mirrors):
        found.extend(_within(index, np.ascontiguousarray(queries), max_distance))
    pairs = np.concatenate(found)
    return np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)


def _within(
    index: "faiss.IndexBinaryFlat", queries: UInt8[np.ndarray, "rows 32"], max_distance: int
) -> Iterator[Int64[np.ndarray, "pairs 2"]]:
    """Yield (query, neighbour) pairs, a slice of queries at a time."""
    for start in range(0, len(queries), _QUERY_ROWS):
        part = queries[start : start + _QUERY_ROWS]
        # faiss means strictly less than the radius.
        limits, _, neighbours = index.range_search(part, max_distance + 1)
        matches = (limits[1:] - limits[:-1]).astype(np.int64)
        rows = np.repeat(np.arange(start, start + len(part)), matches)
        yield np.stack([rows, neighbours.astype(np.int64)], axis=1)


def groups(rows: int, pairs: Int64[np.ndarray, "pairs 2"]) -> Int64[np.ndarray, " rows"]:
    """Number the connected components that ``pairs`` make of ``rows``."""
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(rows, rows))
    _, labels = connected_components(links, directed=False)
    return np.asarray(labels, dtype=np.int64)


def find_duplicates(
    rows: pa.Table, *, max_pdq_distance: int, min_pdq_quality: int, mirrored: bool
) -> pa.Table:
    """Say of each kept row which better row it repeats.

    The keeper of a group is the picture with the most pixels, then with the sharpest main face,
    then the largest file, then the smallest id. Groups are closed under chains: when A is near B
    and B near C, one of the three is kept. The answer does not depend on the order of ``rows``.

    Args:
        rows: Columns id, sha256, pdq, pdq_mirror, pdq_quality, width_px, height_px,
            face_sharpness, bytes_len of the rows that nothing rejected.
        max_pdq_distance: See ``near_pairs``.
        min_pdq_quality: Hashes of lower quality are not compared.
        mirrored: Whether a mirrored copy is a copy.

    Returns:
        Columns id, dup_of, dup_kind (exact or near), one row per duplicate.
    """
    rows = rows.take(_best_first(rows))
    ids, shas = rows["id"].to_pylist(), rows["sha256"].to_pylist()
    first_with: dict[str, int] = {}
    exact = [(first_with.setdefault(sha, i), i) for i, sha in enumerate(shas)]
    pairs = np.array([(a, b) for a, b in exact if a != b], np.int64).reshape(-1, 2)

    clear: Bool[np.ndarray, " rows"] = rows["pdq_quality"].to_numpy() >= min_pdq_quality
    # One of each set of equal files is enough to compare.
    asked = np.flatnonzero(clear & np.isin(np.arange(len(ids)), list(first_with.values())))
    hashes = _packed(rows["pdq"], asked)
    mirrors = _packed(rows["pdq_mirror"], asked) if mirrored else None
    near = asked[near_pairs(hashes, mirrors, max_pdq_distance)]

    labels = groups(len(ids), np.concatenate([pairs, near]))
    # Rows stand best first, so the first of each group is its keeper.
    _, keeper_of_label = np.unique(labels, return_index=True)
    keepers = keeper_of_label[labels]
    losers = np.flatnonzero(keepers != np.arange(len(ids)))
    return pa.table(
        {
            "id": pa.array([ids[i] for i in losers], pa.string()),
            "dup_of": pa.array([ids[keepers[i]] for i in losers], pa.string()),
            "dup_kind": pa.array(
                ["exact" if shas[i] == shas[keepers[i]] else "near" for i in losers], pa.string()
            ),
        }
    )


def _best_first(rows: pa.Table) -> Int64[np.ndarray, " rows"]:
    """Order rows by quality; the id decides between equals, so that the order is total."""
    area = rows["width_px"].to_numpy().astype(np.int64) * rows["height_px"].to_numpy()
    sharpness = np.array([max(s[:1], default=0.0) for s in rows["face_sharpness"].to_pylist()])
    keys = (rows["id"].to_numpy(zero_copy_only=False).astype(str), -rows["bytes_len"].to_numpy())
    return np.lexsort((*keys, -sharpness.astype(np.float32), -area)).astype(np.int64)


def _packed(
    column: pa.ChunkedArray, rows: Int64[np.ndarray, " asked"]
) -> UInt8[np.ndarray, "asked 32"]:
    """Return the hashes of some rows as one array of bytes."""
    values = column.take(pa.array(rows)).to_pylist()
    return np.frombuffer(b"".join(values), np.uint8).reshape(-1, 32)
