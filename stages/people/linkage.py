"""Groups of faces, how far they are apart on average, and when two of them become one."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from stages.people.graph import Neighbours, Points

Labels = Int64[np.ndarray, " _"]
"""A group number per face: 0 to groups - 1, in the order of each group's first face."""
Pairs = Int64[np.ndarray, "_ 2"]
_NUMBERS_AT_ONCE = 1 << 25
"""Of vectors in float64, 256 MiB: bounds the memory beyond the groups' own."""


@dataclass(frozen=True, slots=True)
class Groups:
    """All that is needed of groups to know every mean distance between them exactly.

    The mean squared distance between the members of two groups follows from their sums alone, so a
    group costs one vector, however many members it has. Prepared vectors lie on a binary grid, so
    the sums are exact and no answer depends on the order of members.
    """

    counts: Float64[np.ndarray, " groups"]
    sums: Float64[np.ndarray, "groups dim"]
    squares: Float64[np.ndarray, " groups"]
    """Sum of the members' squared lengths."""

    @staticmethod
    def of(points: Points, labels: Labels, groups: int) -> "Groups":
        """Sum the members of every group; faces with a negative label are in none."""
        members = np.flatnonzero(labels >= 0)
        members = members[np.argsort(labels[members], kind="stable")]
        counts = np.bincount(labels[members], minlength=groups)
        filled = np.flatnonzero(counts)
        starts = (np.cumsum(counts) - counts)[filled]
        sums, squares = np.zeros((groups, points.shape[1])), np.zeros(groups)
        if len(members):
            sums[filled] = _added(points, members, starts)
            lengths = np.einsum("fd,fd->f", points, points, dtype=np.float64)
            squares[filled] = np.add.reduceat(lengths[members], starts)
        return Groups(counts.astype(np.float64), sums, squares)

    def apart(self, pairs: Pairs) -> Float64[np.ndarray, " pairs"]:
        """Return the mean squared distance between the members of two groups, per pair of them."""
        a, b = pairs.T
        products = _dots(self.sums, a, self.sums, b) / (self.counts[a] * self.counts[b])
        mean = self.squares / np.maximum(self.counts, 1)
        return np.asarray(np.maximum(mean[a] + mean[b] - 2 * products, 0))

    def from_faces(
        self,
        points: Points,
        faces: Int64[np.ndarray, " pairs"],
        groups: Int64[np.ndarray, " pairs"],
    ) -> Float64[np.ndarray, " pairs"]:
        """Return the mean squared distance of faces to the members of groups they are not in.

        The distance to a group of none is the face's own squared length.
        """
        products = _dots(points, faces, self.sums, groups) / np.maximum(self.counts[groups], 1)
        own = np.einsum("fd,fd->f", points, points, dtype=np.float64)[faces]
        theirs = (self.squares / np.maximum(self.counts, 1))[groups]
        return np.asarray(np.maximum(own + theirs - 2 * products, 0))

    def from_members(
        self,
        points: Points,
        faces: Int64[np.ndarray, " pairs"],
        groups: Int64[np.ndarray, " pairs"],
    ) -> Float64[np.ndarray, " pairs"]:
        """Return the mean squared distance of members to the others of their group; 0 if alone."""
        counts = self.counts[groups]
        # Its distance to itself is zero: only the number of those averaged over changes.
        mean = self.from_faces(points, faces, groups)
        return np.asarray(mean * counts / np.maximum(counts - 1, 1))

    def merged(self, into: Labels, groups: int) -> "Groups":
        """Add groups up under new numbers."""
        order = np.argsort(into, kind="stable")
        counts = np.bincount(into, minlength=groups)
        starts = np.cumsum(counts) - counts
        return Groups(
            np.add.reduceat(self.counts[order], starts),
            _added(self.sums, order, starts),
            np.add.reduceat(self.squares[order], starts),
        )


def _dots(
    a: np.ndarray,
    a_rows: Int64[np.ndarray, " pairs"],
    b: np.ndarray,
    b_rows: Int64[np.ndarray, " pairs"],
) -> Float64[np.ndarray, " pairs"]:
    """Multiply rows of two matrices, a slice of pairs at a time."""
    out = np.empty(len(a_rows))
    step = max(1, _NUMBERS_AT_ONCE // max(1, a.shape[1]))
    for start in range(0, len(out), step):
        part = slice(start, start + step)
        out[part] = np.einsum("pd,pd->p", a[a_rows[part]], b[b_rows[part]], dtype=np.float64)
    return out


def _added(
    vectors: np.ndarray, order: Int64[np.ndarray, " rows"], starts: Int64[np.ndarray, " runs"]
) -> Float64[np.ndarray, "runs dim"]:
    """Add up runs of vectors, which begin at ``starts`` in this order, a slice at a time."""
    out = np.zeros((len(starts), vectors.shape[1]))
    step = max(1, _NUMBERS_AT_ONCE // max(1, vectors.shape[1]))
    for begin in range(0, len(order), step):
        rows = order[begin : begin + step]
        first = int(np.searchsorted(starts, begin, "right")) - 1
        last = int(np.searchsorted(starts, begin + len(rows)))
        # The first run may have begun in the slice before.
        heads = np.maximum(starts[first:last] - begin, 0)
        out[first:last] += np.add.reduceat(vectors[rows].astype(np.float64), heads, axis=0)
    return out


def unique_pairs(pairs: Pairs, count: int) -> Pairs:
    """Return pairs of different numbers below ``count`` once each, smaller number first."""
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    keys = np.unique(pairs[:, 0] * count + pairs[:, 1])
    return np.column_stack(np.divmod(keys, count)) if count else pairs


def graph_pairs(graph: Neighbours, below: float) -> Pairs:
    """Return the edges of a graph that are shorter than a squared distance."""
    first, column = np.nonzero((graph.rows >= 0) & (graph.squared < below))
    return unique_pairs(np.column_stack([first, graph.rows[first, column]]), len(graph.rows))


def compact(labels: Labels) -> Labels:
    """Number groups by their first face, whatever they were called."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return np.asarray(rank[inverse], dtype=np.int64)


def agglomerate(
    start: Groups, pairs: Pairs, pair_limit: float, group_limit: float
) -> tuple[Labels, Groups]:
    """Join groups whose members are near on average: reciprocal agglomerative clustering.

    In every round each group looks for its best partner, and those that chose each other become
    one. What counts is the mean over *all* pairs of members, so one bad face between two people
    joins nobody: that is the gate against chains. A mean over few pairs says little and over many
    much, so the limit rises from ``pair_limit``, for two single faces, to ``group_limit``::

        limit = pair_limit + (group_limit - pair_limit) * (1 - 2 / members of both)

    Best is what lies furthest below its limit. All pairs of a round are decided at once, so the
    order of rows matters only between exactly equal distances.

    Args:
        start: The groups to begin with, single faces or more.
        pairs: Who may be compared at all, as numbers of groups.
        pair_limit: Squared distance.
        group_limit: Squared distance, not below ``pair_limit``.

    Returns:
        The new group of every group, and the new groups.

    References:
        Sumengen et al., "Scaling hierarchical agglomerative clustering to billion-sized datasets",
        arXiv:2105.11653; the linkage is UPGMA, Sokal and Michener 1958.
    """
    groups = start
    labels = np.arange(len(start.counts))
    pairs = unique_pairs(pairs, len(labels))
    apart = groups.apart(pairs)
    while True:
        # Limits only rise, and a mean falls below one only together with one that is below it.
        near = apart < group_limit
        pairs, apart = pairs[near], apart[near]
        members = groups.counts[pairs[:, 0]] + groups.counts[pairs[:, 1]]
        excess = apart - pair_limit - (group_limit - pair_limit) * (1 - 2 / members)
        first, second = _reciprocal(pairs, excess, len(groups.counts))
        if not len(first):
            return compact(labels), groups
        into = np.arange(len(groups.counts))
        into[second] = first
        changed = np.zeros(len(into), bool)
        changed[first] = True
        numbers, new = np.unique(into, return_inverse=True)
        groups = groups.merged(new, len(numbers))
        labels = new[labels]
        pairs, apart = _renamed(new[pairs], apart, len(numbers))
        again: Bool[np.ndarray, " pairs"] = changed[numbers][pairs].any(axis=1)
        apart[again] = groups.apart(pairs[again])


def _reciprocal(
    pairs: Pairs, excess: Float64[np.ndarray, " pairs"], groups: int
) -> tuple[Labels, Labels]:
    """Find the pairs that are each other's best, among those within their limit."""
    allowed = excess < 0
    pairs, excess = pairs[allowed], excess[allowed]
    ones = np.concatenate([pairs[:, 0], pairs[:, 1]])
    others = np.concatenate([pairs[:, 1], pairs[:, 0]])
    order = np.lexsort((others, np.concatenate([excess, excess]), ones))
    ones, others = ones[order], others[order]
    heads = np.flatnonzero(np.diff(ones, prepend=-1))
    best = np.full(groups, -1)
    best[ones[heads]] = others[heads]
    first, second = ones[heads], others[heads]
    mutual = (best[second] == first) & (first < second)
    return first[mutual], second[mutual]


def _renamed(
    pairs: Pairs, apart: Float64[np.ndarray, " pairs"], groups: int
) -> tuple[Pairs, Float64[np.ndarray, " left"]]:
    """Drop pairs that have become one group, and keep one of those that have become the same."""
    inside = pairs[:, 0] != pairs[:, 1]
    pairs, apart = np.sort(pairs[inside], axis=1), apart[inside]
    _, kept = np.unique(pairs[:, 0] * groups + pairs[:, 1], return_index=True)
    return pairs[kept], apart[kept]
