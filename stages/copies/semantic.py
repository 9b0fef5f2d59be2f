"""Copies that hashes miss, by embeddings: SemDeDup."""

from collections.abc import Iterator

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Float32, Int16, Int64

from infra.errors import BadValue
from stages.copies.looks import Groups, Looks, Pairs

GRID = 1 << 11
"""Steps per unit length to which vectors are rounded, a change of cosine of about 0.0002.

Products of two such vectors, and what they sum up to, are whole numbers up to 2^22, which float32
holds exactly. So no result depends on the order of a sum: not on threads, libraries or machines.
"""
ROWS_PER_CELL = 1024
_TRAINING_PER_CELL = 64
_ITERATIONS = 10
_SEED = 1
_ROWS_AT_ONCE = 1 << 16
_COMPARED_AT_ONCE = 1 << 24

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


def join_alike(
    points: Points, looks: Looks, groups: Groups, *, min_cosine: float, max_distance: int
) -> None:
    """Join pictures whose embeddings are nearly the same and whose hashes agree enough.

    Rows are put into cells by k-means, about a thousand to a cell, and compared with the others of
    their cell. Two rows on either side of a border are not compared: unlike that of bands, the
    recall is **not guaranteed**; but nearly equal vectors nearly always share a cell.

    Args:
        points: Embeddings, see ``on_grid``, of whole pictures or of main faces. Rows should stand
            in an order that depends on nothing but them, as the cells do depend on it.
        looks: The hashes of the same rows.
        groups: Of the same rows; changed in place.
        min_cosine: Least cosine of two embeddings.
        max_distance: Most bits, of 256, in which the hashes may differ; 256 trusts the embedding
            alone. An embedding of faces is the same for one person, so it needs this.

    References:
        Abbas et al., "SemDeDup: Data-efficient learning at web-scale through semantic
        deduplication", 2023, arXiv 2303.09540. There, only the embedding decides.
    """
    least = np.float32(np.ceil(min_cosine * GRID * GRID))
    cells = _cells(points)
    order = np.argsort(cells, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(cells[order])) + 1):
        for pairs in _alike(points[members].astype(np.float32), least):
            pairs = members[pairs]
            pairs = pairs[groups.labels[pairs[:, 0]] != groups.labels[pairs[:, 1]]]
            groups.join(pairs[looks.distances(pairs) <= max_distance])


def _cells(points: Points) -> Int64[np.ndarray, " rows"]:
    """Number the cell of every row."""
    rows, dim = points.shape
    cells = rows // ROWS_PER_CELL
    if cells < 2:
        return np.zeros(rows, np.int64)
    means = faiss.Kmeans(
        dim, cells, niter=_ITERATIONS, seed=_SEED, int_centroids=True,
        max_points_per_centroid=_TRAINING_PER_CELL,
    )  # fmt: skip
    means.train(points[:: ROWS_PER_CELL // _TRAINING_PER_CELL].astype(np.float32))
    found = [
        means.index.search(points[start : start + _ROWS_AT_ONCE].astype(np.float32), 1)[1][:, 0]
        for start in range(0, rows, _ROWS_AT_ONCE)
    ]
    return np.concatenate(found).astype(np.int64)


def _alike(x: Float32[np.ndarray, "members dim"], least: np.float32) -> Iterator[Pairs]:
    """Yield the pairs of members whose product is not less, some at a time."""
    step = max(1, _COMPARED_AT_ONCE // max(1, len(x)))
    for start in range(0, len(x), step):
        first, second = np.nonzero(x[start : start + step] @ x[start:].T >= least)
        yield np.stack([first, second], axis=1)[second > first] + start
