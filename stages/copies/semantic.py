"""Copies that hashes miss, by embeddings: SemDeDup."""

from collections.abc import Iterator
from typing import NamedTuple

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Float32, Int16, Int64

from infra.errors import BadValue
from stages.copies.looks import Groups, Looks, Pairs
from stages.spread import HERE, Spread

GRID = 1 << 11
"""Steps per unit length to which vectors are rounded, a change of cosine of about 0.0002.

Products of two such vectors, and what they sum up to, are whole numbers up to 2^22, which float32
holds exactly. So no result depends on the order of a sum: not on threads, libraries or machines.
"""
ROWS_PER_CELL = 1024
_TRAINING_PER_CELL = 64
_ITERATIONS = 10
_SEED = 1
_CELLS_PER_ROW = 4
_ROWS_PER_SHARD = 1 << 16
_COMPARED_AT_ONCE = 1 << 24
_PAIRS_AT_ONCE = 1 << 20

Points = Int16[np.ndarray, "rows dim"]


def first_vectors(
    column: pa.Array,
) -> tuple[Int64[np.ndarray, " holders"], Float32[np.ndarray, "holders dim"]]:
    """Take the vector of every row that has one, or the first where rows have several.

    Args:
        column: Lists of numbers, or lists of such lists.

    Returns:
        Which rows have a vector, and their vectors.

    Raises:
        BadValue: The column holds something else, or vectors of different lengths.
    """
    holders = np.arange(len(column))
    if _is_list(column.type) and _is_list(column.type.value_type):
        holders, lengths = _filled(column)
        column = pc.list_flatten(column).take(pa.array(np.cumsum(lengths) - lengths))
    if not _is_list(column.type) or not pa.types.is_floating(column.type.value_type):
        cure = "name a column of vectors, or of lists of vectors."
        raise BadValue("dedupe.semantic_column", f"of {column.type}", cure)
    own, lengths = _filled(column)
    if len(set(lengths.tolist())) > 1:
        cure = f"its vectors should be equally long; there are some of {sorted(set(lengths))}."
        raise BadValue("dedupe.semantic_column", f"of {column.type}", cure)
    values = pc.fill_null(pc.list_flatten(column), float("nan")).to_numpy()
    return holders[own], values.reshape(len(own), -1 if len(own) else 0).astype(np.float32)


def _is_list(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_list(kind) for is_list in lists)


def _filled(column: pa.Array) -> tuple[Int64[np.ndarray, " filled"], Int64[np.ndarray, " filled"]]:
    """Return which rows of a column of lists are not empty, and how long these are."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    filled = np.flatnonzero(lengths)
    return filled, lengths[filled]


def on_grid(vectors: Float[np.ndarray, "rows dim"]) -> Points:
    """Scale vectors to unit length and round them; all zeros where there is no direction."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    good = np.isfinite(lengths) & (lengths > 0)
    units = np.where(good, vectors, 0) / np.where(good, lengths, 1)
    return np.rint(units * GRID).astype(np.int16)


def present(points: Points) -> Bool[np.ndarray, " rows"]:
    """Say which rows have a vector at all."""
    return np.asarray(points.any(axis=1))


class Cells(NamedTuple):
    """What one shard compares: rows that lie together, cell by cell."""

    rows: Int64[np.ndarray, " places"]
    """In every cell first the rows that are nearest to it, then those that only reach into it."""
    ends: Int64[np.ndarray, " cells"]
    """Where each cell ends among ``rows``."""
    own: Int64[np.ndarray, " cells"]
    """How many of a cell's rows are nearest to it."""


def join_alike(
    points: Points,
    looks: Looks,
    groups: Groups,
    *,
    min_cosine: float,
    max_distance: int,
    spread: Spread = HERE,
) -> None:
    """Join pictures whose embeddings are nearly the same and whose hashes agree enough.

    Rows are put into cells by k-means, about a thousand to a cell, and compared with the others of
    their cell. A row whose copy may lie across a border, as far as the bound on the cosine lets it,
    is compared in that cell too, in up to four cells. Unlike that of bands, the recall is **not
    guaranteed**, but nearly that of comparing all.

    The means are learnt in one process, from 64 rows per cell. Finding each row's cells, and
    comparing what is in them, is spread; on the grid all products are exact, so where that is done
    decides nothing.

    Args:
        points: Embeddings, see ``on_grid``, of whole pictures or of main faces. Rows should stand
            in an order that depends on nothing but them, as the cells do depend on it.
        looks: The hashes of the same rows.
        groups: Of the same rows; changed in place.
        min_cosine: Least cosine of two embeddings.
        max_distance: Most bits, of 256, in which the hashes may differ; 256 trusts the embedding
            alone. An embedding of faces is the same for one person, so it needs this.
        spread: Who compares.

    References:
        Abbas et al., "SemDeDup: Data-efficient learning at web-scale through semantic
        deduplication", 2023, arXiv 2303.09540. There, only the embedding decides, and a row has
        one cell, which misses copies across a border.
    """
    least = float(np.ceil(min_cosine * GRID * GRID))
    cells = _all_cells(points, min_cosine, spread)
    shards: list[Cells] = []
    first = 0
    while first < len(cells.ends):
        start = cells.ends[first - 1] if first else 0
        last = int(np.searchsorted(cells.ends, start + _ROWS_PER_SHARD, "right"))
        last = max(first + 1, last)
        rows = cells.rows[start : cells.ends[last - 1]]
        shards.append(Cells(rows, cells.ends[first:last] - start, cells.own[first:last]))
        first = last
    groups.join_all(spread(alike_in_cells, shards, points, looks, least, max_distance))


def _all_cells(points: Points, min_cosine: float, spread: Spread) -> Cells:
    """Put all rows into cells."""
    rows, dim = points.shape
    cells = rows // ROWS_PER_CELL
    if cells < 2:
        one = np.full(min(rows, 1), rows)
        return Cells(np.arange(rows), one, one)
    means = faiss.Kmeans(
        dim, cells, niter=_ITERATIONS, seed=_SEED, int_centroids=True,
        max_points_per_centroid=_TRAINING_PER_CELL,
    )  # fmt: skip
    means.train(points[:: ROWS_PER_CELL // _TRAINING_PER_CELL].astype(np.float32))
    # Two rows of this cosine are so far apart. So if one is nearest to a cell, the other is at most
    # twice that further from it than from its own nearest.
    reach = 2 * GRID * float(np.sqrt(2 - 2 * min_cosine))
    step = _ROWS_PER_SHARD
    shards = [range(start, min(start + step, rows)) for start in range(0, rows, step)]
    found = np.concatenate(list(spread(cells_of, shards, points, means.centroids, reach)))
    row, nth = np.nonzero(found >= 0)
    cell = found[row, nth]
    order = np.lexsort((row, nth > 0, cell))
    _, starts = np.unique(cell[order], return_index=True)
    own = np.add.reduceat(nth[order] == 0, starts, dtype=np.int64)
    return Cells(row[order], np.append(starts[1:], len(row)), own)


def cells_of(
    asked: range, points: Points, means: Float32[np.ndarray, "cells dim"], reach: float
) -> Int64[np.ndarray, "asked near"]:
    """Number the cells of some rows, nearest first, -1 out of reach: the work of one shard."""
    some = points[asked.start : asked.stop].astype(np.float32)
    squared, near = faiss.knn(some, means, min(_CELLS_PER_ROW, len(means)))
    away = np.sqrt(squared, dtype=np.float64)
    return np.where(away <= away[:, :1] + reach, near, -1).astype(np.int64)


def alike_in_cells(
    shard: Cells, points: Points, looks: Looks, least: float, max_distance: int
) -> Pairs:
    """Link the rows of some cells that are copies: the work of one shard.

    Args:
        shard: The rows.
        points: Of all rows.
        looks: Of all rows.
        least: Product of two points from which they are alike.
        max_distance: Most bits that may differ.
    """
    groups = Groups(len(shard.rows))
    starts = np.append(0, shard.ends[:-1])
    for start, end, own in zip(starts.tolist(), shard.ends.tolist(), shard.own, strict=True):
        held = points[shard.rows[start:end]].astype(np.float32)
        for alike in _alike(held, int(own), np.float32(least)):
            # A crowd of equal rows makes millions of pairs: joined early, most say nothing new.
            for at in range(0, len(alike), _PAIRS_AT_ONCE):
                pairs = alike[at : at + _PAIRS_AT_ONCE] + start
                pairs = pairs[groups.labels[pairs[:, 0]] != groups.labels[pairs[:, 1]]]
                groups.join(pairs[looks.distances(shard.rows[pairs]) <= max_distance])
    return np.asarray(shard.rows[groups.links()])


def _alike(x: Float32[np.ndarray, "members dim"], own: int, least: np.float32) -> Iterator[Pairs]:
    """Yield the pairs of members, one of the first ``own``, whose product is not less."""
    step = max(1, _COMPARED_AT_ONCE // max(1, len(x)))
    for start in range(0, own, step):
        first, second = np.nonzero(x[start : min(start + step, own)] @ x[start:].T >= least)
        yield np.stack([first, second], axis=1)[second > first] + start
