import faiss
import numpy as np
import pytest

from stages.people import graph
from stages.people.graph import GRID, knn_graph, prepare, recall, threads_of_faiss
from stages.spread import InThreads
from tests.stages.elsewhere import elsewhere
from tests.stages.people.crowds import crowd


def brute(points, k):
    squared = np.square(points[:, None] - points[None]).sum(axis=2)
    np.fill_diagonal(squared, np.inf)
    order = np.lexsort((np.broadcast_to(np.arange(len(points)), squared.shape), squared), axis=1)
    return order[:, :k], np.take_along_axis(squared, order[:, :k], axis=1)


def test_the_graph_is_that_of_brute_force():
    points, _ = prepare(crowd()[1], "cosine")
    rows, squared = brute(points, 8)
    found = knn_graph(points, 8)
    assert np.array_equal(found.rows, rows)
    assert np.allclose(found.squared, squared, atol=1e-6)


def test_equal_distances_go_by_row():
    points = np.tile(np.eye(2, dtype=np.float32), (20, 1))
    assert knn_graph(points, 4).rows[:3].tolist() == [[2, 4, 6, 8], [3, 5, 7, 9], [0, 4, 6, 8]]


def test_more_neighbours_than_rows_end_in_none():
    found = knn_graph(np.eye(3, dtype=np.float32), 5)
    assert found.rows[0].tolist() == [1, 2, -1, -1, -1]
    assert np.isinf(found.squared[0, 2:]).all()


@pytest.mark.parametrize("rows", [0, 1])
def test_without_others_there_are_no_neighbours(rows):
    found = knn_graph(np.zeros((rows, 4), np.float32), 3)
    assert found.rows.shape == (rows, 3)
    assert (found.rows == -1).all()


@pytest.mark.parametrize("dim", [63, 64])
def test_the_approximate_graph_has_nearly_all_true_neighbours(monkeypatch, dim):
    points, _ = prepare(crowd(people=300, photos=20, noise=0.06, dim=dim)[1], "cosine")
    monkeypatch.setattr(graph, "EXACT_ROWS", 1000)
    found = knn_graph(points, 16)
    assert recall(points, found, sample=300) >= 0.95
    assert np.array_equal(found.rows, knn_graph(points, 16).rows)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("rows_per_shard", [500, 8192])
def test_the_graph_is_the_same_in_any_shards_whoever_looks(monkeypatch, exact, rows_per_shard):
    points, _ = prepare(crowd(people=120, photos=20, noise=0.06, dim=31)[1], "cosine")
    monkeypatch.setattr(graph, "EXACT_ROWS", len(points) if exact else 1000)
    here = knn_graph(points, 16, InThreads(1))
    monkeypatch.setattr(graph, "_ROWS_PER_SHARD", rows_per_shard)
    for spread in (InThreads(3), elsewhere):
        there = knn_graph(points, 16, spread)
        assert np.array_equal(there.rows, here.rows)
        assert np.array_equal(there.squared, here.squared)


def test_cells_and_codes_are_the_same_with_any_number_of_threads():
    points, _ = prepare(crowd(people=100, photos=20)[1], "cosine")
    codes = []
    for threads in (1, 3):
        with threads_of_faiss(threads):
            codes.append(graph._codes(points))
    assert np.array_equal(*codes)


def test_fewer_candidates_than_wanted_end_in_none(monkeypatch):
    points, _ = prepare(crowd(people=100, photos=20)[1], "cosine")
    monkeypatch.setattr(graph, "EXACT_ROWS", 1000)
    monkeypatch.setattr(graph, "_PROBED_CELLS", 1)
    monkeypatch.setattr(graph, "_REFINED", 1)
    found = knn_graph(points, 400)
    missing = found.rows < 0
    assert missing.any()
    assert np.isinf(found.squared[missing]).all()
    assert np.isfinite(found.squared[~missing]).all()
    assert (np.diff(missing.astype(int), axis=1) >= 0).all()


def test_recall_is_one_for_the_exact_graph_and_falls_with_what_is_missing():
    points, _ = prepare(crowd()[1], "cosine")
    exact = knn_graph(points, 8)
    assert recall(points, exact) == 1
    assert recall(points, exact._replace(rows=exact.rows[:, ::-1][:, :4].repeat(2, 1))) == 0.5


def test_the_threads_of_faiss_are_given_back():
    before = faiss.omp_get_max_threads()
    knn_graph(prepare(crowd()[1], "cosine")[0], 4, InThreads(before + 1))
    assert faiss.omp_get_max_threads() == before


def test_vectors_without_a_direction_are_told_apart():
    vectors = np.array([[1, 0], [np.nan, 0], [np.inf, 1], [0, 0], [0, 3]], np.float32)
    points, good = prepare(vectors, "cosine")
    assert good.tolist() == [True, False, False, False, True]
    assert points[good].tolist() == [[1, 0], [0, 1]]
    assert np.isfinite(points).all()
    assert prepare(vectors, "l2")[1].tolist() == [True, False, False, True, True]


def test_vectors_are_prepared_alike_however_many_at_once(monkeypatch):
    vectors = crowd()[1]
    vectors[7] = np.nan
    whole = prepare(vectors, "cosine")
    monkeypatch.setattr(graph, "_PREPARED_AT_ONCE", 17)
    assert all(np.array_equal(a, b) for a, b in zip(prepare(vectors, "cosine"), whole, strict=True))


def test_what_a_batch_changes_in_a_vector_the_grid_takes_away():
    vectors = crowd(people=50)[1]
    moved = vectors + np.random.default_rng(1).uniform(-2e-7, 2e-7, vectors.shape)
    same = prepare(vectors, "l2")[0] == prepare(moved.astype(np.float32), "l2")[0]
    assert same.all(axis=1).mean() > 0.9
    assert np.abs(prepare(vectors, "l2")[0] - vectors).max() <= GRID / 2
