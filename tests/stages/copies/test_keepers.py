import numpy as np
import pyarrow as pa
import pytest

from stages.columns import schema
from stages.copies import bands
from stages.copies.keepers import COMPARED, FOUND, find_duplicates
from stages.copies.semantic import on_grid
from stages.copies.settings import DedupeSettings

RNG = np.random.default_rng(0)


def flipped(code, bits):
    """Return a hash that differs from ``code`` in that many bits."""
    spread = np.unpackbits(code)
    spread[RNG.choice(256, bits, replace=False)] ^= 1
    return np.packbits(spread)


def hashes(n):
    return RNG.integers(0, 256, (n, 32), dtype=np.uint8)


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
        for i, (code, mirror) in enumerate(
            zip(hashes(len(changes)), hashes(len(changes)), strict=True)
        )
    ]
    return [row | change for row, change in zip(defaults, changes, strict=True)]


def table_of(rows):
    return pa.Table.from_pylist(rows, schema=schema(COMPARED))


def find(rows, vectors=None, **settings):
    points = None if vectors is None else on_grid(np.array(vectors))
    return find_duplicates(table_of(rows), DedupeSettings(**settings), points)


def found(rows, vectors=None, **settings):
    table = find(rows, vectors, **settings)
    return {r["id"][-1]: (r["dup_of"][-1], r["dup_kind"]) for r in table.to_pylist()}


def test_the_larger_picture_is_kept():
    code = hashes(1)[0]
    small = {"pdq": code.tobytes()}
    large = {"pdq": flipped(code, 20).tobytes(), "width_px": 200}
    assert found(rows(small, large)) == {"0": ("1", "near")}


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"face_sharpness": [60.0]}, {"face_sharpness": [50.0, 90.0]}),
        ({"face_sharpness": [1.0]}, {"face_sharpness": []}),
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


def test_pictures_with_one_hash_and_two_mirrors_are_both_asked_for_mirrored_copies():
    code, other = hashes(2)
    same = {"pdq": code.tobytes()}
    three = rows(same, same | {"pdq_mirror": flipped(other, 5).tobytes()}, {"pdq": other.tobytes()})
    assert found(three) == {"1": ("0", "near"), "2": ("0", "near")}


def test_flat_pictures_are_not_compared():
    code = hashes(1)[0].tobytes()
    assert found(rows({"pdq": code, "pdq_quality": 49}, {"pdq": code, "pdq_quality": 49})) == {}


def test_rows_without_hashes_are_copies_of_nothing():
    none = {"sha256": None, "pdq": None, "pdq_mirror": None, "pdq_quality": None}
    none |= {"face_sharpness": None, "bytes_len": None, "width_px": None}
    same = {"sha256": "a" * 64}
    assert found(rows(none, none, same, same)) == {"3": ("2", "exact")}
    assert found(rows(none, none)) == {}


def test_a_group_is_closed_under_chains_of_every_kind():
    """0 and 1 are the same bytes, 2 looks like 1, 3 has the embedding of 2 and 0's rest."""
    code = hashes(1)[0]
    one = {"pdq": code.tobytes(), "sha256": "a" * 64}
    four = rows(
        one, one, {"pdq": flipped(code, 31).tobytes()}, {"pdq": flipped(code, 90).tobytes()}
    )
    vectors = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0.01, 1]]
    copies = {"1": ("0", "exact"), "2": ("0", "near")}
    assert found(four) == copies
    assert found(four, vectors, max_semantic_pdq_distance=121) == copies | {"3": ("0", "semantic")}
    assert found(four, vectors, max_semantic_pdq_distance=58) == copies


def test_the_same_face_in_pictures_that_look_different_is_no_copy():
    code = hashes(1)[0]
    pair = rows({"pdq": code.tobytes()}, {"pdq": flipped(code, 120).tobytes()})
    pair = [row | {"pdq_mirror": row["pdq"]} for row in pair]
    same = [[1.0, 2.0], [1.0, 2.0]]
    assert found(pair, same) == {}
    assert found(pair, same, max_semantic_pdq_distance=256) == {"1": ("0", "semantic")}


@pytest.mark.parametrize("at_least", [bands.MIN_BANDED_ROWS, 0])
def test_the_answer_depends_neither_on_the_order_of_rows_nor_on_chunks(at_least, monkeypatch):
    monkeypatch.setattr(bands, "MIN_BANDED_ROWS", at_least)
    base = hashes(40)
    made = rows(*({"pdq": flipped(base[i % 40], 12).tobytes()} for i in range(120)))
    table = table_of(made)
    answer = find(made).sort_by("id")
    assert answer.num_rows == 80
    shuffled = table.take(RNG.permutation(120))
    halves = pa.concat_tables([shuffled.slice(0, 50), shuffled.slice(50)])
    assert find_duplicates(halves, DedupeSettings()).sort_by("id") == answer


def test_the_answer_with_embeddings_does_not_depend_on_the_order_of_rows():
    made, order = rows(*[{}] * 3000), RNG.permutation(3000)
    vectors = RNG.normal(size=(3000, 16))
    table, points = table_of(made), on_grid(vectors)
    settings = DedupeSettings(min_cosine=0.8, max_semantic_pdq_distance=120)
    answer = find_duplicates(table, settings, points).sort_by("id")
    assert answer.num_rows > 10
    again = find_duplicates(table.take(order), settings, points[order])
    assert again.sort_by("id") == answer


def test_all_the_same_picture_keeps_one():
    code = hashes(1)[0].tobytes()
    table = find(rows(*[{"pdq": code, "pdq_mirror": code}] * 2000))
    assert table.num_rows == 1999
    assert set(table["dup_of"].to_pylist()) == {f"{0:032x}"}


@pytest.mark.parametrize("number", [0, 1])
def test_few_rows_have_no_duplicates(number):
    table = table_of(rows({})).slice(0, number)
    assert find_duplicates(table, DedupeSettings()) == FOUND.empty_table()
    assert find_duplicates(table, DedupeSettings(), np.zeros((number, 0), np.int16)).num_rows == 0
