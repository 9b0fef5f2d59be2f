"""Find near pictures among millions without comparing all, and without missing any.

The 256 bits of a hash are dealt out to ``m`` bands like cards (bit k to band k mod m, so that
neighbouring frequencies of the picture, which go together, come apart). Two hashes that differ in
at most ``d`` bits differ in x_0, ..., x_(m-1) bits of the bands, and these add up to at most d.
Then, with indices modulo m,

    there is a band i with  x_i <= d / m  and  x_i + x_(i+1) <= 2 d / m.

Proof: put y_j = x_j - d / m, whose sum is at most 0. Walk around the bands twice and note the
running sum of y. Begin after the place where it is highest within the first round (any, if there
are several). In the second round every value is at most that of a round before, since a full round
adds at most 0; so from there no running sum exceeds 0, neither after one step nor after two.

With m = floor(d / 3) + 1 bands (at least 8), floor(d / m) is at most 2. So the hashes that are
looked up are those that differ in at most two bits of a band: each enters the band's table under
its own value and under every value with one bit flipped, and two that differ in at most two bits
meet under one of these. Of those that meet, the ones are compared in full whose next band differs
in at most 2 d / m bits. Nothing in this is random: every pair within d is found.

For d = 31: 11 bands of 23 or 24 bits, 264 to 267 table entries per hash. Among a million random
hashes with mirrors, of 2e12 pairs 1.3e9 meet and 1e7 are compared in full. Hashes of photographs of
faces are less than random: on Labeled Faces in the Wild 2.4 times as many meet.

A shard is one band's table, or a slice of it where there are many hashes: it needs the hashes
alone, and what it finds depends on no other shard.

References:
    Norouzi, Punjani, Fleet, "Fast Exact Search in Hamming Space with Multi-Index Hashing", TPAMI
    2014 (bands within a radius); Qin, Xiao, "Pigeonring", PVLDB 12(1), 2018 (the second condition).
"""

from typing import NamedTuple

import numpy as np

from stages.copies.looks import Groups, Looks, Pairs, compare_all
from stages.copies.tables import MAX_SLICES, Table
from stages.spread import HERE, Spread

MAX_BANDED_DISTANCE = 47
"""Beyond, bands would be narrower than 16 bits: too many would meet by chance."""
MIN_BANDED_ROWS = 8192
"""Fewer are sooner compared all."""
_MIN_BANDS = 8
_ENTRIES_PER_SLICE = 1 << 21
"""Every slice sorts its band's whole table, so a slice should be worth more than that."""
_JOINED_AT_ONCE = 1 << 14


class Slice(NamedTuple):
    """What one shard looks through."""

    band: int
    number: int
    """Which part of the band's values, of ``slices`` equal ones."""
    slices: int


def join_near(looks: Looks, max_distance: int, groups: Groups, spread: Spread = HERE) -> None:
    """Join all pictures within a distance, the quicker of two ways; both give the same groups.

    Args:
        looks: The hashes.
        max_distance: Most bits that may differ, of 256. PDQ's authors suggest 31.
        groups: Of the same rows; changed in place.
        spread: Who looks.
    """
    banded = len(looks) >= MIN_BANDED_ROWS and max_distance <= MAX_BANDED_DISTANCE
    (compare_banded if banded else compare_all)(looks, max_distance, groups, spread=spread)


def compare_banded(
    looks: Looks,
    max_distance: int,
    groups: Groups,
    spread: Spread = HERE,
    slices: int = 0,
) -> None:
    """Join all pictures within a distance of at most 47 bits, by bands.

    Args:
        looks: The hashes.
        max_distance: Most bits that may differ.
        groups: Of the same rows; changed in place.
        spread: Who looks.
        slices: Of every band, a power of two up to ``MAX_SLICES``; 0: by the number of hashes. The
            groups are the same whatever it is.
    """
    bands = max(_MIN_BANDS, max_distance // 3 + 1)
    wanted = 1 << (len(looks.words) // _ENTRIES_PER_SLICE).bit_length()
    slices = slices or min(wanted, MAX_SLICES)
    shards = [Slice(band, number, slices) for band in range(bands) for number in range(slices)]
    groups.join_all(spread(near_in_slice, shards, looks, bands, max_distance))


def near_in_slice(shard: Slice, looks: Looks, bands: int, max_distance: int) -> Pairs:
    """Link the near pictures that meet in one slice of a band: the work of one shard."""
    groups = Groups(len(looks))
    table = Table(looks, shard.band, bands, max_distance)
    found: list[Pairs] = []
    for part in table.parts(shard.number, shard.slices):
        pairs, crowd = table.search(part, groups)
        found.append(pairs)
        # Joining costs a pass over all rows, so not for a few pairs; but what is joined is not
        # found again.
        if len(crowd.ends) or sum(map(len, found)) > _JOINED_AT_ONCE:
            groups.join(np.concatenate(found))
            found = []
            table.join_crowd(crowd, groups)
    groups.join(np.concatenate([np.empty((0, 2), np.int64), *found]))
    return groups.links()
