import faiss
import numpy as np
import pyarrow as pa
import pytest

from infra.errors import BadValue
from stages.copies import semantic
from stages.copies.looks import Groups, Looks
from stages.copies.semantic import GRID, first_vectors, join_alike, on_grid, present
from stages.spread import HERE, InThreads
from tests.stages.elsewhere import elsewhere


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def grouped(points, looks, min_cosine=0.99, max_distance=110, spread=HERE):
    groups = Groups(len(points))
    join_alike(
        points, looks, groups, min_cosine=min_cosine, max_distance=max_distance, spread=spread
    )
    return groups.labels


def same_look(rows):
    return Looks(np.zeros((rows, 32), np.uint8))


def at_cosine(vector, cosine, draw):
    """Return a vector at that cosine to ``vector``."""
    off = draw.normal(size=vector.shape)
    off -= vector * (off @ vector) / (vector @ vector)
    return vector / np.linalg.norm(vector) * cosine + off / np.linalg.norm(off) * np.sqrt(
        1 - cosine**2
    )


def test_rows_are_joined_whose_cosine_is_not_below_the_bound(draw):
    first = draw.normal(size=128)
    vectors = np.stack([first, 7 * at_cosine(first, 0.992, draw), at_cosine(first, 0.988, draw)])
    assert grouped(on_grid(vectors), same_look(3)).tolist() == [0, 0, 2]


def test_equal_embeddings_of_pictures_that_look_different_are_not_joined(draw):
    points = on_grid(np.tile(draw.normal(size=(1, 128)), (2, 1)))
    looks = Looks(np.array([[0] * 32, [255] * 14 + [0] * 18], np.uint8))  # 112 bits
    assert grouped(points, looks, max_distance=111).tolist() == [0, 1]
    assert grouped(points, looks, max_distance=112).tolist() == [0, 0]


@pytest.mark.parametrize("dim", [128, 512])
def test_nearly_equal_rows_among_many_are_joined_across_borders_of_cells_too(
    dim, draw, monkeypatch
):
    vectors = draw.normal(size=(5000, dim))
    vectors[2500:] = vectors[:2500] + draw.normal(size=(2500, dim)) * 0.07
    points = on_grid(vectors)
    monkeypatch.setattr(semantic, "ROWS_PER_CELL", 500)
    labels = grouped(points, same_look(5000))
    joined = labels[2500:] == np.arange(2500)
    assert joined.mean() > 0.99  # of vectors without any clusters: the borders are everywhere
    assert (labels[:2500] == np.arange(2500)).all()
    monkeypatch.setattr(semantic, "_CELLS_PER_ROW", 1)
    labels = grouped(points, same_look(5000))
    assert (labels[2500:] == np.arange(2500)).mean() < 0.97


def test_the_answer_is_the_same_with_any_number_of_threads(draw):
    points = on_grid(draw.normal(size=(4000, 64)))
    before, answers = faiss.omp_get_max_threads(), []
    for threads in (1, 3):
        faiss.omp_set_num_threads(threads)
        answers.append(grouped(points, same_look(4000), min_cosine=0.4).tolist())
    faiss.omp_set_num_threads(before)
    assert answers[0] == answers[1]
    assert len(set(answers[0])) < 4000


@pytest.mark.parametrize("rows_per_shard", [300, 10_000])
@pytest.mark.parametrize("spread", [InThreads(1), InThreads(3), elsewhere])
def test_the_answer_is_the_same_in_any_shards_whoever_compares(
    rows_per_shard, spread, draw, monkeypatch
):
    points = on_grid(draw.normal(size=(2500, 64)))
    looks = Looks(draw.integers(0, 256, (2500, 32), dtype=np.uint8))
    here = grouped(points, looks, min_cosine=0.4, max_distance=125).tolist()
    assert 500 < len(set(here)) < 2500
    monkeypatch.setattr(semantic, "_ROWS_PER_SHARD", rows_per_shard)
    there = grouped(points, looks, min_cosine=0.4, max_distance=125, spread=spread)
    assert there.tolist() == here


def test_a_crowd_of_equal_rows_is_one_group(draw, monkeypatch):
    monkeypatch.setattr(semantic, "_PAIRS_AT_ONCE", 1000)
    points = on_grid(np.tile(draw.normal(size=(1, 16)), (300, 1)))
    assert set(grouped(points, same_look(300)).tolist()) == {0}


def test_products_on_the_grid_are_exact_in_any_order(draw):
    points = on_grid(draw.normal(size=(64, 512)).astype(np.float32))
    floats = points.astype(np.float32)
    exact = points.astype(np.int64) @ points.astype(np.int64).T
    assert (floats @ floats.T == exact).all()
    turned = floats[:, ::-1]
    assert (turned @ turned.T == exact).all()
    assert abs(exact.diagonal() / GRID**2 - 1).max() < 0.01


def test_vectors_that_are_none_are_told():
    vectors = np.array([[3.0, 4.0], [np.nan, 1.0], [0.0, 0.0], [np.inf, 0.0], [-1.0, 0.0]])
    assert present(on_grid(vectors)).tolist() == [True, False, False, False, True]


def test_no_rows_join_nothing():
    assert grouped(np.zeros((0, 8), np.int16), same_look(0)).tolist() == []


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([[[1.0, 2.0], [9.0, 9.0]], [], None, [[3.0, 4.0]]], pa.list_(pa.list_(pa.float32()))),
        ([[1.0, 2.0], None, None, [3.0, 4.0]], pa.list_(pa.float32(), 2)),
        ([[1.0, 2.0], [], None, [3.0, 4.0]], pa.list_(pa.float64())),
    ],
)
def test_the_first_vector_of_a_row_is_taken_where_it_has_one(values, kind):
    holders, vectors = first_vectors(pa.array(values, kind))
    assert holders.tolist() == [0, 3]
    assert vectors.tolist() == [[1, 2], [3, 4]]


def test_a_number_that_is_missing_makes_a_vector_none():
    holders, vectors = first_vectors(pa.array([[1.0, None]], pa.list_(pa.float32())))
    assert holders.tolist() == [0]
    assert not present(on_grid(vectors)).any()


@pytest.mark.parametrize("values", [["text"], [[[1.0, 2.0]], [[1.0]]], [[[["x"]]]]])
def test_a_column_that_holds_no_vectors_is_refused(values):
    with pytest.raises(BadValue, match="semantic_column"):
        first_vectors(pa.array(values))
