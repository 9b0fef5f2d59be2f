"""The table of one band: which hashes differ in at most two bits of it. See ``bands``."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Integer, UInt32

from stages.copies.looks import HASH_BITS, Groups, Looks, Pairs

MAX_VALUE_BITS = 24
"""Bits of a band that are looked at; what holds for the band holds for some of its bits."""
MAX_SLICES = 1 << 8
"""Slices of a table, at most: the narrowest bands are of 16 bits."""
_KEY_BITS = 16
"""Bits by which a part of a table is sorted: numpy sorts numbers of 16 bits by radix."""
_MAX_PART_KEYS = 1 << 19
"""Table entries at a time, by which parts are cut where values are crowded: bounds the memory."""
_DENSE_STEPS = 3
"""Up to here, comparing all entries with the ones so many further on beats picking them."""
_CROWD = 64
"""Runs of equal keys longer than this are crowds."""
_PIVOTS = 4
_CROWD_PAIRS = 1 << 21
"""Pairs of a crowd that are compared at a time."""


class Crowd(NamedTuple):
    """Entries under keys that very many share, key by key."""

    ends: Int64[np.ndarray, " members"]
    """Where the run of equal keys ends that each belongs to."""
    entries: Int64[np.ndarray, " members"]
    checks: UInt32[np.ndarray, " members"]


class Table:
    """One band's values, sorted, with the entries that have them and their values in the next."""

    def __init__(self, looks: Looks, band: int, bands: int, max_distance: int) -> None:
        self.looks = looks
        self.max_distance = max_distance
        self.max_checked = 2 * max_distance // bands
        self.flips = max_distance >= bands
        self.bits = min(MAX_VALUE_BITS, len(range(band, HASH_BITS, bands)))
        values = band_values(looks, band, bands)
        order = np.argsort(values, kind="stable")
        self.values = values[order]
        self.checks = band_values(looks, (band + 1) % bands, bands)[order]
        self.entries = order.astype(np.uint32)

    def parts(self, number: int = 0, slices: int = 1) -> Iterator[tuple[int, int]]:
        """Yield prefixes and the number of bits that follow them; together they are all values.

        Args:
            number: Which slice of the values, the others' prefixes are left out.
            slices: How many there are, a power of two.
        """
        slice_bits = self.bits - (slices.bit_length() - 1)
        key_bits = min(_KEY_BITS, slice_bits)
        each = 1 << (slice_bits - key_bits)
        todo = [(prefix, key_bits) for prefix in range(number * each, (number + 1) * each)]
        while todo:
            prefix, bits = todo.pop()
            own, *near = self._spans(prefix, bits)
            keys = (own.stop - own.start) * (1 + bits * self.flips)
            keys += sum(span.stop - span.start for span in near)
            if keys > _MAX_PART_KEYS and bits:
                todo += [(2 * prefix, bits - 1), (2 * prefix + 1, bits - 1)]
            elif keys > 1:
                yield prefix, bits

    def _spans(self, prefix: int, bits: int) -> list[slice]:
        """Find the values with a prefix, and those with a prefix that differs in one bit."""
        flips = range((self.bits - bits) * self.flips)
        starts = np.array([prefix, *(prefix ^ 1 << bit for bit in flips)], np.int64) << bits
        lasts = starts + (1 << bits) - 1
        begins = np.searchsorted(self.values, starts.astype(np.uint32))
        ends = np.searchsorted(self.values, lasts.astype(np.uint32), "right")
        return [slice(int(a), int(b)) for a, b in zip(begins, ends, strict=True)]

    def search(self, part: tuple[int, int], groups: Groups) -> tuple[Pairs, Crowd]:
        """Find the near pairs of different groups that meet in one part of the table.

        Returns:
            The pairs, and the entries of which only some have been compared, see ``join_crowd``.
        """
        bits, spans = part[1], self._spans(*part)
        lows = [
            (self.values[span] & np.uint32((1 << bits) - 1)).astype(np.uint16) for span in spans
        ]
        flipped = [lows[0] ^ np.uint16(1 << bit) for bit in range(bits * self.flips)]
        spans = [spans[0]] * len(flipped) + spans
        keys = np.concatenate(flipped + lows)
        order = keys.argsort(kind="stable")
        keys = keys[order]
        checks = np.concatenate([self.checks[span] for span in spans])[order]
        entries = np.concatenate([self.entries[span] for span in spans])

        ends = np.append(np.flatnonzero(keys[1:] != keys[:-1]) + 1, len(keys))
        lengths = np.diff(ends, prepend=0)
        left = np.repeat(ends, lengths) - np.arange(len(keys))
        crowded = np.repeat(lengths > _CROWD, lengths)
        long = lengths[lengths > _CROWD]
        crowd = Crowd(
            np.repeat(np.cumsum(long), long),
            entries[order[crowded]].astype(np.int64),
            checks[crowded],
        )
        left[crowded] = np.minimum(left[crowded], 2)  # of these, only neighbours are compared here

        meeting = []
        among = np.flatnonzero(left > _DENSE_STEPS + 1)
        for step in range(1, int(left.max())):
            if step <= _DENSE_STEPS:
                differ = np.bitwise_count(checks[:-step] ^ checks[step:])
                first = np.flatnonzero(differ <= self.max_checked)
                first = first[left[first] > step]
            else:
                among = among[left[among] > step]
                differ = np.bitwise_count(checks[among] ^ checks[among + step])
                first = among[differ <= self.max_checked]
            meeting.append(np.stack([first, first + step]))
        if not meeting:
            return np.empty((0, 2), np.int64), crowd
        a, b = entries[order[np.concatenate(meeting, axis=1)]].astype(np.int64)
        return self._near(a, b, groups), crowd

    def _near(
        self, a: Integer[np.ndarray, " pairs"], b: Integer[np.ndarray, " pairs"], groups: Groups
    ) -> Pairs:
        """Return the pairs of rows, of different groups, whose hashes are near."""
        rows = len(self.looks)
        pairs = np.stack([a, b], axis=1) % rows
        apart = groups.labels[pairs[:, 0]] != groups.labels[pairs[:, 1]]
        apart &= (a < rows) | (b < rows)  # mirrors are compared with pictures, not with mirrors
        near = self.looks.differing(a[apart], b[apart]) <= self.max_distance
        return np.asarray(pairs[apart][near])

    def join_crowd(self, crowd: Crowd, groups: Groups) -> None:
        """Join the near pairs among entries of which very many share a key.

        Thousands of copies of one picture make millions of pairs that say the same. So a few of
        every run are compared with the whole run, which makes one group of such copies; then only
        entries of different groups are compared, some at a time. Runs of pictures that are not
        alike cost what comparing all of them costs; nothing is left out.
        """
        ends, entries, checks = crowd
        if not len(ends):
            return
        begins = np.searchsorted(ends, ends)
        rows = len(self.looks)
        for pivot in range(_PIVOTS):
            pivots = entries[begins + (ends - begins) * pivot // _PIVOTS]
            groups.join(self._near(pivots, entries, groups))
        labels = groups.labels[entries % rows]
        order = np.lexsort((labels, ends))
        entries, checks, labels = entries[order], checks[order], labels[order]
        last = np.append((labels[1:] != labels[:-1]) | (ends[1:] != ends[:-1]), True)
        block_ends = np.flatnonzero(last) + 1
        block_ends = np.repeat(block_ends, np.diff(block_ends, prepend=0))
        others = ends - block_ends  # entries of the same run and of later groups
        total = np.cumsum(others)
        start = 0
        while start < len(ends):
            done = total[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(total, done + _CROWD_PAIRS, "right")))
            first = np.repeat(np.arange(start, stop), others[start:stop])
            nth = np.arange(len(first)) + done - (total - others)[first]
            second = block_ends[first] + nth
            meet = np.bitwise_count(checks[first] ^ checks[second]) <= self.max_checked
            groups.join(self._near(entries[first[meet]], entries[second[meet]], groups))
            start = stop


def band_values(looks: Looks, band: int, bands: int) -> UInt32[np.ndarray, " entries"]:
    """Deal the bits of every hash out to bands; return the first 24 bits, at most, of one."""
    hashes = looks.words.view(np.uint8)
    values = np.zeros(len(hashes), np.uint32)
    for bit in range(band, HASH_BITS, bands)[:MAX_VALUE_BITS]:
        byte, place = divmod(bit, 8)
        values <<= np.uint32(1)
        values |= hashes[:, byte] >> np.uint8(7 - place) & np.uint8(1)
    return values
