import pickle

import numpy as np
import pytest

from stages.copies import bands, looks, tables
from stages.copies.bands import compare_banded, join_near
from stages.copies.looks import Groups, Looks, compare_all
from stages.spread import InThreads
from tests.stages.elsewhere import elsewhere, travelled


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def hashes(draw, n):
    return draw.integers(0, 256, (n, 32), dtype=np.uint8)


def flipped(codes, bits, draw):
    """Flip so many bits of every hash."""
    spread = np.unpackbits(codes, axis=1)
    places = draw.random(spread.shape).argsort(axis=1).argsort(axis=1)
    return np.packbits(spread ^ (places < np.reshape(bits, (-1, 1))), axis=1)


def grouped(way, seen, max_distance):
    groups = Groups(len(seen))
    way(seen, max_distance, groups)
    return groups.labels.tolist()


def both_ways(seen, max_distance):
    by_bands = grouped(compare_banded, seen, max_distance)
    assert by_bands == grouped(compare_all, seen, max_distance)
    return by_bands


@pytest.mark.parametrize("d", [0, 1, 7, 8, 15, 16, 23, 24, 31, 32, 40, 47])
def test_bands_find_what_comparing_all_finds(d, draw):
    base = hashes(draw, 600)
    copies = flipped(base, draw.integers(max(0, d - 4), d + 4, 600), draw)
    mirrors = hashes(draw, 1200)
    mirrors[:200] = flipped(base[200:400], draw.integers(max(0, d - 2), d + 3, 200), draw)
    labels = both_ways(Looks(np.concatenate([base, copies]), mirrors), d)
    assert 200 < len(set(labels)) < 1100


@pytest.mark.parametrize("d", [7, 8, 23, 24, 31, 47])
def test_a_pair_whose_differences_are_spread_as_evenly_as_can_be_is_found(d, draw):
    base = hashes(draw, 300)
    spread = np.unpackbits(base, axis=1)
    number = max(8, d // 3 + 1)
    for row, start in enumerate(draw.integers(0, number, 300)):
        places = [(start + k) % number + number * (k // number) for k in range(d)]
        spread[row, places] ^= 1  # at every band as many, up to one
    copies = np.packbits(spread, axis=1)
    seen = Looks(np.concatenate([base, copies]))
    assert (seen.distances(np.stack([np.arange(300), np.arange(300, 600)], axis=1)) == d).all()
    assert grouped(compare_banded, seen, d) == [*range(300), *range(300)]
    assert grouped(compare_banded, seen, d - 1) == list(range(600))


def test_a_group_is_named_by_its_first_row_and_closed_under_chains():
    groups = Groups(6)
    groups.join(np.array([[4, 2], [5, 4]]))
    assert groups.labels.tolist() == [0, 1, 2, 3, 2, 2]
    groups.join(np.array([[5, 1]]))
    assert groups.labels.tolist() == [0, 1, 1, 3, 1, 1]


@pytest.mark.parametrize("share", [0.03, 0.08])
def test_crowds_of_copies_and_of_pictures_that_are_not_alike_are_told_apart(share, draw):
    """Three pictures, each a thousand times: at 8 % of bits flipped, most are not alike."""
    base = np.unpackbits(hashes(draw, 3), axis=1)[draw.integers(0, 3, 3000)]
    crowd = np.packbits(base ^ (draw.random(base.shape) < share), axis=1)
    labels = both_ways(Looks(crowd, hashes(draw, 3000)), 31)
    assert (len(set(labels)) == 3) == (share == 0.03)


def test_nothing_is_lost_where_crowded_tables_are_cut(draw, monkeypatch):
    monkeypatch.setattr(tables, "_MAX_PART_KEYS", 500)
    monkeypatch.setattr(tables, "_CROWD_PAIRS", 100)
    monkeypatch.setattr(tables, "_CROWD", 4)
    base = np.unpackbits(hashes(draw, 20), axis=1)[draw.integers(0, 20, 400)]
    crowd = np.packbits(base ^ (draw.random(base.shape) < 0.06), axis=1)
    both_ways(Looks(crowd, crowd[::-1]), 31)


def test_the_same_picture_a_thousand_times_is_one_group():
    same = np.zeros((1000, 32), np.uint8)
    assert set(both_ways(Looks(same, same), 31)) == {0}


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows_have_no_pairs(rows, draw):
    assert both_ways(Looks(hashes(draw, rows), hashes(draw, rows)), 31) == list(range(rows))


def test_few_rows_and_wide_distances_are_compared_all(draw, monkeypatch):
    asked = []
    for way in ("compare_all", "compare_banded"):
        monkeypatch.setattr(bands, way, lambda *_, way=way, **__: asked.append(way))
    many = Looks(hashes(draw, bands.MIN_BANDED_ROWS))
    for seen, d in ((many, 47), (many, 48), (Looks(many.plain[:-1]), 31)):
        join_near(seen, d, Groups(len(seen)))
    assert asked == ["compare_banded", "compare_all", "compare_all"]


def test_a_mirrored_copy_is_near_whichever_of_the_two_was_mirrored(draw):
    plain, mirrors = hashes(draw, 2), hashes(draw, 2)
    mirrors[1] = flipped(plain[:1], 9, draw)
    seen = Looks(plain, mirrors)
    assert seen.distances(np.array([[0, 1], [1, 0]])).tolist() == [9, 9]
    assert both_ways(seen, 9) == [0, 0]
    assert both_ways(Looks(plain), 9) == [0, 1]


def test_near_pairs_are_the_pairs_within_the_distance_and_no_other(draw):
    base = hashes(draw, 300)
    copies = flipped(base, [31] * 150 + [32] * 150, draw)
    found = np.concatenate(list(looks.near_pairs(Looks(np.concatenate([base, copies])), 31)))
    assert {tuple(sorted(p)) for p in found.tolist()} == {(i, 300 + i) for i in range(150)}


def copies_among(draw, rows):
    """Make hashes of which some are near to others, some by their mirrors, and a crowd."""
    base = hashes(draw, rows)
    base[rows // 2 :: 3] = flipped(base[: rows // 2][: len(base[rows // 2 :: 3])], 25, draw)
    base[: rows // 10] = flipped(np.repeat(base[:1], rows // 10, axis=0), 9, draw)
    mirrors = hashes(draw, rows)
    mirrors[::7] = base[rows // 3 : rows // 3 + len(mirrors[::7])]
    return Looks(base, mirrors)


@pytest.mark.parametrize(("d", "slices"), [(7, tables.MAX_SLICES), (31, 2), (31, 32), (47, 16)])
def test_the_groups_are_the_same_in_any_number_of_slices(d, slices, draw):
    seen = copies_among(draw, 400)
    found = Groups(400)
    compare_banded(seen, d, found, slices=slices)
    assert found.labels.tolist() == grouped(compare_all, seen, d)


@pytest.mark.parametrize("spread", [InThreads(1), InThreads(3), elsewhere])
def test_the_groups_are_the_same_whoever_looks(spread, draw, monkeypatch):
    seen = copies_among(draw, 450)
    here = both_ways(seen, 31)
    assert 150 < len(set(here)) < 350
    monkeypatch.setattr(looks, "_COMPARED_PER_SHARD", 450 * 100)
    monkeypatch.setattr(looks, "_JOINED_AT_ONCE", 50)
    for way in (compare_all, compare_banded):
        found = Groups(450)
        way(seen, 31, found, spread=spread)
        assert found.labels.tolist() == here


def test_more_hashes_are_cut_into_more_slices(draw, monkeypatch):
    asked = []

    def spread(work, shards, *shared):
        asked.append(len(shards))
        return (work(shard, *shared) for shard in shards)

    for entries in (1 << 21, 600, 300):  # 600: twice as many as there are rows
        monkeypatch.setattr(bands, "_ENTRIES_PER_SLICE", entries)
        compare_banded(copies_among(draw, 300), 31, Groups(300), spread)
    assert asked == [11, 22, 44]


def test_one_array_of_hashes_travels_and_is_read_where_it_lies(draw):
    seen = copies_among(draw, 900)
    assert len(pickle.dumps(seen)) < 1.1 * seen.words.nbytes
    for looks_there in (travelled(seen), travelled(Looks(seen.plain))):
        assert not looks_there.words.flags.writeable
        assert (looks_there.plain == seen.plain).all()
        assert looks_there.plain.base is not None
    assert (travelled(seen).mirrors == seen.mirrors).all()
    assert travelled(Looks(seen.plain)).mirrors is None


def test_the_links_of_groups_say_what_the_groups_are():
    groups, again = Groups(6), Groups(6)
    groups.join(np.array([[4, 2], [5, 4], [1, 0]]))
    assert groups.links().tolist() == [[1, 0], [4, 2], [5, 2]]
    again.join_all([groups.links()[1:], groups.links()[:1]])
    assert again.labels.tolist() == groups.labels.tolist()
    assert Groups(3).links().shape == (0, 2)
