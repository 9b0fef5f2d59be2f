"""What pictures look like, as bits; how far apart they are; and groups of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import faiss
import numpy as np
from jaxtyping import Int, Int64, UInt8, UInt64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

HASH_BITS = 256
_COMPARED_AT_ONCE = 1 << 24
"""Comparisons asked of faiss at a time: bounds the memory for their matches."""

Pairs = Int64[np.ndarray, "_ 2"]


@dataclass(frozen=True, eq=False)
class Looks:
    """The perceptual hashes of some pictures.

    The distance of two pictures is the number of bits in which the hash of one differs from the
    hash of the other or, where mirrors are given, from that of its mirror image, if those are
    fewer.
    """

    plain: UInt8[np.ndarray, "rows 32"]
    """PDQ hashes, 256 bits packed into 32 bytes."""
    mirrors: UInt8[np.ndarray, "rows 32"] | None = None
    """The hashes of the mirrored pictures; None: a mirrored copy is no copy."""
    words: UInt64[np.ndarray, "entries 4"] = field(init=False, repr=False)
    """All hashes as words: those of the pictures, and below them those of the mirrors."""

    def __post_init__(self) -> None:
        both = [self.plain] if self.mirrors is None else [self.plain, self.mirrors]
        # Concatenating also makes them contiguous, which viewing and faiss need.
        object.__setattr__(self, "words", np.concatenate(both).view(np.uint64))

    def __len__(self) -> int:
        return len(self.plain)

    def differing(
        self, a: Int[np.ndarray, " pairs"], b: Int[np.ndarray, " pairs"]
    ) -> Int64[np.ndarray, " pairs"]:
        """Count the bits in which the hashes numbered ``a`` differ from those numbered ``b``."""
        bits = np.bitwise_count(self.words[a] ^ self.words[b])
        return np.asarray(bits.sum(axis=1, dtype=np.int64))

    def distances(self, pairs: Pairs) -> Int64[np.ndarray, " pairs"]:
        """Return the distances of pairs of pictures."""
        a, b = pairs.T
        found = self.differing(a, b)
        if self.mirrors is None:
            return found
        turned = np.minimum(self.differing(a, b + len(self)), self.differing(a + len(self), b))
        return np.asarray(np.minimum(found, turned))


class Groups:
    """Which rows belong together; closed under chains."""

    def __init__(self, rows: int) -> None:
        self.labels: Int64[np.ndarray, " rows"] = np.arange(rows)
        """Of every row, the first row of its group."""

    def join(self, pairs: Pairs) -> None:
        """Make one group of the groups of the two rows of every pair."""
        links = self.labels[pairs]
        links = links[links[:, 0] != links[:, 1]]
        if not len(links):
            return
        firsts, places = np.unique(links, return_inverse=True)
        a, b = places.reshape(-1, 2).T
        graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(len(firsts), len(firsts)))
        _, merged = connected_components(graph, directed=False)
        _, first_of = np.unique(merged, return_index=True)  # firsts ascend, so this is the least
        now = np.arange(len(self.labels))
        now[firsts] = firsts[first_of[merged]]
        self.labels = now[self.labels]


def compare_all(looks: Looks, max_distance: int, groups: Groups) -> None:
    """Join all pictures within a distance, by comparing every one with every other.

    Args:
        looks: The hashes; faiss does 4e8 comparisons of them a second on two cores.
        max_distance: Most bits that may differ, of 256.
        groups: Of the same rows; changed in place.
    """
    for pairs in near_pairs(looks, max_distance):
        groups.join(pairs)


def near_pairs(looks: Looks, max_distance: int) -> Iterator[Pairs]:
    """Yield every pair of pictures within a distance, each at least once, some at a time."""
    rows, entries = len(looks), looks.words.view(np.uint8)
    if not rows:
        return
    index = faiss.IndexBinaryFlat(HASH_BITS)
    index.add(entries[:rows])
    step = max(1, _COMPARED_AT_ONCE // rows)
    for start in range(0, len(entries), step):
        asked = entries[start : start + step]
        # faiss means strictly less than the radius.
        limits, _, neighbours = index.range_search(asked, max_distance + 1)
        limits = limits.astype(np.int64)
        matches = limits[1:] - limits[:-1]
        a = np.repeat(np.arange(start, start + len(asked)), matches) % rows
        b = neighbours.astype(np.int64)
        yield np.stack([a, b], axis=1)[a != b]
