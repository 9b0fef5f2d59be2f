"""What pictures look like, as bits; how far apart they are; and groups of them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import faiss
import numpy as np
from jaxtyping import Int, Int64, UInt8, UInt64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stages.spread import HERE, Spread

HASH_BITS = 256
_COMPARED_AT_ONCE = 1 << 24
"""Comparisons asked of faiss at a time: bounds the memory for their matches."""
_COMPARED_PER_SHARD = 1 << 31
"""Some ten seconds of one core."""
_JOINED_AT_ONCE = 1 << 20

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
        self._lay(np.concatenate(both).view(np.uint64), len(self.plain))

    def _lay(self, words: UInt64[np.ndarray, "entries 4"], rows: int) -> "Looks":
        """Look at one array of hashes from three sides."""
        hashes = words.view(np.uint8)
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "plain", hashes[:rows])
        object.__setattr__(self, "mirrors", hashes[rows:] if len(words) > rows else None)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # One array travels, not three, and whoever gets it need not copy it.
        return _laid, (self.words, len(self))

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


def _laid(words: UInt64[np.ndarray, "entries 4"], rows: int) -> Looks:
    return Looks.__new__(Looks)._lay(words, rows)


class Groups:
    """Which rows belong together; closed under chains.

    What pairs make of it depends neither on their order nor on which of several ways links two
    rows: the answers of shards can be joined as they come.
    """

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

    def join_all(self, parts: Iterable[Pairs]) -> None:
        """Join the pairs of all parts, many parts in one pass over the rows."""
        held: list[Pairs] = []
        for pairs in parts:
            held.append(pairs)
            if sum(map(len, held)) > _JOINED_AT_ONCE:
                self.join(np.concatenate(held))
                held = []
        self.join(np.concatenate([np.empty((0, 2), np.int64), *held]))

    def links(self) -> Pairs:
        """Return the fewest pairs that say the same: each row's with the first of its group."""
        rows = np.flatnonzero(self.labels != np.arange(len(self.labels)))
        return np.stack([rows, self.labels[rows]], axis=1)


def compare_all(looks: Looks, max_distance: int, groups: Groups, spread: Spread = HERE) -> None:
    """Join all pictures within a distance, by comparing every one with every other.

    Args:
        looks: The hashes; faiss does 4e8 comparisons of them a second on two cores.
        max_distance: Most bits that may differ, of 256.
        groups: Of the same rows; changed in place.
        spread: Who compares.
    """
    entries = len(looks.words)
    step = max(1, _COMPARED_PER_SHARD // max(1, len(looks)))
    shards = [range(start, min(start + step, entries)) for start in range(0, entries, step)]
    groups.join_all(spread(near_among, shards, looks, max_distance))


def near_among(asked: range, looks: Looks, max_distance: int) -> Pairs:
    """Link what some entries are near to: the work of one shard of ``compare_all``."""
    groups = Groups(len(looks))
    for pairs in near_pairs(looks, max_distance, asked):
        groups.join(pairs)
    return groups.links()


def near_pairs(looks: Looks, max_distance: int, asked: range | None = None) -> Iterator[Pairs]:
    """Yield every pair of pictures within a distance, each at least once, some at a time.

    Args:
        looks: The hashes.
        max_distance: Most bits that may differ.
        asked: Only the pairs of these entries of ``looks.words``; None: all.
    """
    rows, entries = len(looks), looks.words.view(np.uint8)
    if not rows:
        return
    index = faiss.IndexBinaryFlat(HASH_BITS)
    index.add(entries[:rows])
    step = max(1, _COMPARED_AT_ONCE // rows)
    asked = range(len(entries)) if asked is None else asked
    for start in range(asked.start, asked.stop, step):
        some = entries[start : min(start + step, asked.stop)]
        # faiss means strictly less than the radius.
        limits, _, neighbours = index.range_search(some, max_distance + 1)
        limits = limits.astype(np.int64)
        matches = limits[1:] - limits[:-1]
        a = np.repeat(np.arange(start, start + len(some)), matches) % rows
        b = neighbours.astype(np.int64)
        yield np.stack([a, b], axis=1)[a != b]
