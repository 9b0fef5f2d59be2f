"""Vectors made ready for grouping, and the nearest neighbours of each."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import faiss
import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

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
_SEED = 1234
_CHUNK_ROWS = 1 << 16


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
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    good = np.isfinite(lengths) & ((lengths > _MIN_NORM) | (metric == "l2"))
    points = np.where(good[:, None], vectors, 0).astype(np.float64)
    if metric == "cosine":
        points /= np.where(good, lengths, 1)[:, None]
    return (np.rint(points / GRID) * GRID).astype(np.float32), good


def knn_graph(points: Points, k: int = 32, threads: int = 2) -> Neighbours:
    """Find the ``k`` nearest other rows of every row.

    Up to ``EXACT_ROWS`` rows every pair is compared. Beyond, rows lie in cells (k-means), a row is
    compared in 4-bit product codes with what is in the nearest cells, and the best of these are
    measured again exactly. ``recall`` measures what that misses. The same rows in the same order
    give the same answer: seeds are fixed, and equal distances go by row number.

    Args:
        points: Prepared vectors.
        k: Neighbours per row. Less are found when there are fewer rows.
        threads: CPU threads.

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
    with threads_of_faiss(threads):
        search = _exact(points) if rows <= EXACT_ROWS else _approximate(points)
        for start in range(0, rows, _CHUNK_ROWS):
            part = slice(start, min(start + _CHUNK_ROWS, rows))
            near = search(part, wanted + 1)
            found[part, :wanted], squared[part, :wanted] = _nearest(points, part, near, wanted)
    return Neighbours(found, squared)


@contextmanager
def threads_of_faiss(threads: int) -> Iterator[None]:
    """Bound faiss's threads for a while: they are the process's, not the call's."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


_Search = Callable[[slice, int], Int64[np.ndarray, "part found"]]


def _exact(points: Points) -> _Search:
    """Compare with all rows."""
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(points)
    return lambda part, k: index.search(points[part], k)[1]


def _approximate(points: Points) -> _Search:
    """Compare with what lies in the nearest cells."""
    # Product codes of two dimensions each want an even number; zeros change no distance.
    full = np.ascontiguousarray(np.pad(points, ((0, 0), (0, points.shape[1] % 2))))
    dim, cells = full.shape[1], len(full) // _ROWS_PER_CELL
    coarse = faiss.IndexFlatL2(dim)
    codes = faiss.IndexIVFPQFastScan(coarse, dim, cells, dim // 2, 4)
    codes.by_residual = False
    codes.cp.seed, codes.cp.niter, codes.nprobe = _SEED, 8, min(_PROBED_CELLS, cells)
    codes.cp.max_points_per_centroid = _TRAINING_PER_CELL
    codes.train(full[:: max(len(full) // (cells * _TRAINING_PER_CELL), 1)])
    codes.add(full)
    index = faiss.IndexRefineFlat(codes, faiss.swig_ptr(full))
    index.k_factor = _REFINED
    held = (coarse, codes)  # faiss only points to them, and to the rows

    def search(part: slice, k: int) -> Int64[np.ndarray, "part found"]:
        assert held
        return np.asarray(index.search(full[part], k)[1])

    return search


def _nearest(
    points: Points, part: slice, near: Int64[np.ndarray, "part found"], wanted: int
) -> tuple[Int64[np.ndarray, "part wanted"], Float32[np.ndarray, "part wanted"]]:
    """Measure what was found, without the rows themselves, and order it: by distance, then row."""
    asked = np.arange(part.start, part.stop)[:, None]
    missing = (near < 0) | (near == asked)
    gaps = np.empty(near.shape, np.float32)
    for column in range(near.shape[1]):
        # One neighbour of all rows at a time: a whole block of differences would take gigabytes.
        away = points[part] - points[near[:, column]]
        gaps[:, column] = np.einsum("rd,rd->r", away, away)
    gaps[missing] = np.inf
    rows = np.where(missing, -1, near)
    order = np.lexsort((rows, gaps), axis=1)[:, :wanted]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(gaps, order, axis=1)


def recall(points: Points, graph: Neighbours, sample: int = 1000, threads: int = 2) -> float:
    """Measure which share of the true nearest neighbours a graph has, on some rows of it."""
    asked = np.linspace(0, len(points) - 1, min(sample, len(points)), dtype=np.int64)
    k = min(graph.rows.shape[1], len(points) - 1)
    with threads_of_faiss(threads):
        _, true = faiss.knn(points[asked], points, k + 1)
    pairs = zip(asked.tolist(), true, graph.rows[asked], strict=True)
    shares = [len(np.intersect1d(t[t != row][:k], found)) / k for row, t, found in pairs]
    return float(np.mean(shares))
