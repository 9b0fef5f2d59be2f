import numpy as np
import pyarrow as pa
import pytest

from stages.duplicates import find_duplicates, groups, near_pairs

RNG = np.random.default_rng(0)


def flipped(code, bits):
    """Return a hash that differs from ``code`` in that many bits."""
    spread = np.unpackbits(code)
    spread[RNG.choice(256, bits, replace=False)] ^= 1
    return np.packbits(spread)


def hashes(n):
    return RNG.integers(0, 256, (n, 32), dtype=np.uint8)


def hashes_twice(n):
    return hashes(n), hashes(n)


def rows(*changes):
    """Make kept rows that differ in everything but what ``changes`` say."""
    defaults = [
        {
            "id": f"{i:032x}",
            "sha256": f"{i:064x}",
            "pdq": code.tobytes(),
            "pdq_mirror": mirror.tobytes(),
            "pdq_quality": 100,
            "width_px": 100,
            "height_px": 100,
            "face_sharpness": [50.0],
            "bytes_len": 1000,
        }
        for i, (code, mirror) in enumerate(zip(*hashes_twice(len(changes)), strict=True))
    ]
    return [row | change for row, change in zip(defaults, changes, strict=True)]


def found(rows, **settings):
    rules = {"max_pdq_distance": 31, "min_pdq_quality": 50, "mirrored": True} | settings
    table = find_duplicates(pa.Table.from_pylist(rows), **rules)
    return {r["id"][-1]: (r["dup_of"][-1], r["dup_kind"]) for r in table.to_pylist()}


def test_every_pair_within_the_distance_is_found_and_no_other():
    base = hashes(300)
    copies = np.stack(
        [flipped(code, bits) for code, bits in zip(base, [31] * 150 + [32] * 150, strict=True)]
    )
    pairs = {tuple(p) for p in near_pairs(np.concatenate([base, copies]), None, 31)}
    assert pairs == {(i, 300 + i) for i in range(150)}


def test_groups_are_closed_under_chains():
    labels = groups(5, np.array([[0, 1], [1, 2]]))
    assert labels[0] == labels[1] == labels[2]
    assert len(set(labels.tolist())) == 3


def test_the_larger_picture_is_kept():
    code = hashes(1)[0]
    small = {"pdq": code.tobytes()}
    large = {"pdq": flipped(code, 20).tobytes(), "width_px": 200}
    assert found(rows(small, large)) == {"0": ("1", "near")}


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"face_sharpness": [60.0]}, {"face_sharpness": [50.0]}),
        ({"bytes_len": 2000}, {"bytes_len": 1000}),
        ({"width_px": 300, "face_sharpness": [1.0]}, {"face_sharpness": [90.0]}),
    ],
)
def test_the_stated_order_of_quality_decides(better, worse):
    same = {"sha256": "a" * 64}
    assert found(rows(same | worse, same | better)) == {"0": ("1", "exact")}


def test_between_equals_the_smallest_id_is_kept():
    same = {"sha256": "a" * 64}
    assert found(rows(same, same, same)) == {"1": ("0", "exact"), "2": ("0", "exact")}


def test_a_mirrored_copy_is_found_only_where_the_recipe_asks():
    code = hashes(1)[0]
    pair = rows({"pdq": code.tobytes()}, {"pdq_mirror": flipped(code, 10).tobytes()})
    assert found(pair) == {"1": ("0", "near")}
    assert found(pair, mirrored=False) == {}


def test_flat_pictures_are_not_compared():
    code = hashes(1)[0].tobytes()
    assert found(rows({"pdq": code, "pdq_quality": 49}, {"pdq": code, "pdq_quality": 49})) == {}


def test_the_answer_does_not_depend_on_the_order_of_rows():
    base = hashes(40)
    made = rows(*({"pdq": flipped(base[i % 40], 12).tobytes()} for i in range(120)))
    shuffled = [made[i] for i in RNG.permutation(120)]
    assert len(found(made)) > 0
    table = {r["id"]: r for r in find(made)}
    assert table == {r["id"]: r for r in find(shuffled)}


def find(rows):
    table = find_duplicates(
        pa.Table.from_pylist(rows), max_pdq_distance=31, min_pdq_quality=50, mirrored=True
    )
    return table.to_pylist()


def test_no_rows_have_no_duplicates():
    empty = pa.Table.from_pylist(rows({})).slice(0, 0)
    none = find_duplicates(empty, max_pdq_distance=31, min_pdq_quality=50, mirrored=True)
    assert none.num_rows == 0
