"""Vectors made ready for grouping, and the nearest neighbours of each."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import faiss
import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Int64, UInt8

from stages.spread import HERE, Spread

Points = Float32[np.ndarray, "faces dim"]
"""Prepared vectors: finite, of unit length where the metric is cosine, on the grid."""

GRID = 2.0**-12
"""Spacing to which vectors are rounded. An embedding changes by 2e-7 with the size of the batch it
was made in, which the rounding takes away nearly always; and sums of numbers on a binary grid are
exact in float64, so that no mean depends on the order in which it was taken."""
EXACT_ROWS = 50_000
"""Up to this many rows all pairs are compared: about a minute on two cores."""
_ROWS_PER_CELL = 256
_TRAINING_PER_CELL = 48
_PROBED_CELLS = 256
"""Cells that are searched for every row: neighbours scatter over many in 128 dimensions."""
_REFINED = 20
"""Neighbours by compressed distance, per neighbour wanted, that are measured again exactly. With
both, a million vectors spread like dlib's have 0.96 of their 32 true neighbours."""
_MIN_NORM = 1e-6
_PREPARED_AT_ONCE = 1 << 16
_SEED = 1234
_ROWS_PER_SHARD = 1 << 13
"""Rows that one shard asks for. Fixed: faiss may break ties otherwise for another number."""


class Neighbours(NamedTuple):
    """The nearest other rows of every row, nearest first; fewer rows than asked for end in -1."""

    rows: Int64[np.ndarray, "faces k"]
    squared: Float32[np.ndarray, "faces k"]
    """Squared Euclidean distances; infinite where ``rows`` is -1."""


def prepare(
    vectors: Float[np.ndarray, "faces dim"], metric: Literal["l2", "cosine"]
) -> tuple[Points, Bool[np.ndarray, " faces"]]:
    """Make vectors comparable by Euclidean distance, and say which ones are vectors at all.

    Args:
        vectors: Identity vectors as the embedder gives them.
        metric: ``cosine`` scales every vector to unit length, ``l2`` leaves lengths as they are.

    Returns:
        The prepared vectors, and a mask that is False where a vector holds NaN or infinity, or has
        no direction; such rows are zeros.
    """
    points, good = np.empty(vectors.shape, np.float32), np.empty(len(vectors), bool)
    for start in range(0, len(vectors), _PREPARED_AT_ONCE):
        part = slice(start, start + _PREPARED_AT_ONCE)
        wide = vectors[part].astype(np.float64)
        lengths = np.linalg.norm(wide, axis=1)
        good[part] = np.isfinite(lengths) & ((lengths > _MIN_NORM) | (metric == "l2"))
        wide[~good[part]] = 0
        if metric == "cosine":
            wide /= np.where(good[part], lengths, 1)[:, None]
        points[part] = np.rint(wide / GRID) * GRID
    return points, good


def knn_graph(points: Points, k: int = 32, spread: Spread = HERE) -> Neighbours:
    """Find the ``k`` nearest other rows of every row.

    Up to ``EXACT_ROWS`` rows every pair is compared. Beyond, rows lie in cells (k-means), a row is
    compared in 4-bit product codes with what is in the nearest cells, and the best of these are
    measured again exactly. ``recall`` measures what that misses. The same rows in the same order
    give the same answer: seeds are fixed, and equal distances go by row number.

    Cells and codes are made in one process; looking rows up, which takes nearly all of the time, is
    spread. The rows and their codes travel, ``dim * 4.5 + 8`` bytes per row.

    Args:
        points: Prepared vectors.
        k: Neighbours per row. Less are found when there are fewer rows.
        spread: Who looks rows up.

    References:
        Johnson et al., "Billion-scale similarity search with GPUs", arXiv:1702.08734; Andre et
        al., "Accelerated nearest neighbor search with Quick ADC", arXiv:1704.07355.
    """
    rows = len(points)
    wanted = min(k, rows - 1)
    found = np.full((rows, k), -1, np.int64)
    squared = np.full((rows, k), np.inf, np.float32)
    if wanted <= 0:
        return Neighbours(found, squared)
    points = np.ascontiguousarray(points)
    codes = None if rows <= EXACT_ROWS else _codes(points)
    step = _ROWS_PER_SHARD
    shards = [range(start, min(start + step, rows)) for start in range(0, rows, step)]
    answers = spread(nearest, shards, points, codes, wanted)
    for asked, (near, gaps) in zip(shards, answers, strict=True):
        part = slice(asked.start, asked.stop)
        found[part, :wanted], squared[part, :wanted] = near, gaps
    return Neighbours(found, squared)


@contextmanager
def threads_of_faiss(threads: int) -> Iterator[None]:
    """Bound, for a while, the threads that faiss takes for calls of this thread."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _padded(points: Points) -> Float32[np.ndarray, "faces even"]:
    """Return vectors of an even number of dimensions; zeros change no distance."""
    return np.ascontiguousarray(np.pad(points, ((0, 0), (0, points.shape[1] % 2))))


def _codes(points: Points) -> UInt8[np.ndarray, " bytes"]:
    """Put rows into cells, and compress them; return that as faiss writes it to a file."""
    full = _padded(points)
    dim, cells = full.shape[1], len(full) // _ROWS_PER_CELL
    coarse = faiss.IndexFlatL2(dim)
    codes = faiss.IndexIVFPQFastScan(coarse, dim, cells, dim // 2, 4)
    codes.by_residual = False
    codes.cp.seed, codes.cp.niter = _SEED, 8
    codes.cp.max_points_per_centroid = _TRAINING_PER_CELL
    with threads_of_faiss(1):  # which is as quick, for the parts that threads would do are small
        codes.train(full[:: max(len(full) // (cells * _TRAINING_PER_CELL), 1)])
    codes.add(full)
    return np.asarray(faiss.serialize_index(codes))


def nearest(
    asked: range, points: Points, codes: UInt8[np.ndarray, " bytes"] | None, wanted: int
) -> tuple[Int32[np.ndarray, "asked wanted"], Float32[np.ndarray, "asked wanted"]]:
    """Find the nearest other rows of some rows: the work of one shard.

    Args:
        asked: The rows.
        points: All rows.
        codes: See ``_codes``; None: every pair is compared.
        wanted: Neighbours per row.

    Returns:
        Rows and squared distances, nearest first, of equally near ones the first row first.
    """
    some = points[asked.start : asked.stop]
    with threads_of_faiss(1):  # among several, ties may go to the quicker one
        if codes is None:
            _, near = faiss.knn(some, points, wanted + 1)
        else:
            index: Any = faiss.deserialize_index(codes)
            index.nprobe = min(_PROBED_CELLS, index.nlist)
            _, near = index.search(_padded(some), (wanted + 1) * _REFINED)
        near[near == np.arange(asked.start, asked.stop)[:, None]] = -1
        gaps = np.full(near.shape, np.inf, np.float32)
        # Measures what lies in ``points`` where it lies, and leaves out what is -1.
        faiss.fvec_L2sqr_by_idx(  # type: ignore[attr-defined] # its stubs leave it out
            *map(faiss.swig_ptr, (gaps, some, points, near)), points.shape[1], *near.shape
        )
    # Distances are not negative, so their bits are in the order of the numbers. Thus one number
    # holds a distance and, below it, a row: the least numbers are the nearest rows.
    keys = gaps.view(np.uint32).astype(np.uint64) << np.uint64(32) | near.astype(np.uint32)
    keys = np.sort(np.partition(keys, wanted - 1, axis=1)[:, :wanted], axis=1)
    gaps = (keys >> np.uint64(32)).astype(np.uint32).view(np.float32)
    rows = (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.int32)
    return rows, gaps


def recall(points: Points, graph: Neighbours, sample: int = 1000, threads: int = 2) -> float:
    """Measure which share of the true nearest neighbours a graph has, on some rows of it."""
    asked = np.linspace(0, len(points) - 1, min(sample, len(points)), dtype=np.int64)
    k = min(graph.rows.shape[1], len(points) - 1)
    with threads_of_faiss(threads):
        _, true = faiss.knn(points[asked], points, k + 1)
    pairs = zip(asked.tolist(), true, graph.rows[asked], strict=True)
    shares = [len(np.intersect1d(t[t != row][:k], found)) / k for row, t, found in pairs]
    return float(np.mean(shares))
