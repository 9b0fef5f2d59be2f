import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

import stages.people.linkage as ours
from stages.people.graph import prepare
from stages.people.linkage import Groups, agglomerate, compact, unique_pairs
from tests.stages.people.crowds import crowd, same_groups


def all_pairs(n):
    return np.column_stack(np.triu_indices(n, 1))


def singles(points):
    return Groups.of(points, np.arange(len(points)), len(points))


def points_and_labels(**settings):
    _, vectors, labels = crowd(**settings)
    return prepare(vectors, "cosine")[0], compact(labels)


def test_mean_distances_follow_from_the_sums():
    points, labels = points_and_labels(people=4, photos=5, noise=0.1)
    groups = Groups.of(points, labels, 4)
    squared = np.square(points[:, None].astype(float) - points).sum(axis=2)
    between = squared[np.ix_(labels == 0, labels == 1)].mean()
    assert groups.apart(np.array([[0, 1]]))[0] == pytest.approx(between, abs=1e-12)
    to_third = squared[0][labels == 3].mean()
    assert groups.from_faces(points, np.array([0]), np.array([3]))[0] == pytest.approx(to_third)
    mine = squared[0][(labels == labels[0]) & (np.arange(20) != 0)].mean()
    assert groups.from_members(points, np.array([0]), labels[:1])[0] == pytest.approx(mine)


def test_sums_do_not_depend_on_the_order_of_members():
    points, labels = points_and_labels(people=3, photos=400)
    turned = np.random.default_rng(0).permutation(len(points))
    a, b = Groups.of(points, labels, 3), Groups.of(points[turned], labels[turned], 3)
    assert np.array_equal(a.sums, b.sums)
    assert np.array_equal(a.squares, b.squares)


def test_one_limit_for_all_sizes_is_average_linkage():
    points, _ = points_and_labels(people=30, photos=6, noise=0.12)
    squared = np.square(points[:, None].astype(float) - points).sum(axis=2)
    for limit in (0.8, 1.0, 1.2):
        tree = linkage(squared[np.triu_indices(len(points), 1)], "average")
        ours, _ = agglomerate(singles(points), all_pairs(len(points)), limit, limit)
        assert same_groups(ours, fcluster(tree, limit, "distance"))


def test_the_limit_rises_with_the_members_of_both():
    # Two pairs, 0.25 apart as squares go: too far for two photos, near enough for four.
    points = np.array([[0, 0], [0, 0], [0.5, 0], [0.5, 0]], np.float32)
    pairs = np.array([[0, 2]])
    assert agglomerate(singles(points), pairs, 0.2, 0.4)[0].tolist() == [0, 1, 2, 3]
    assert agglomerate(singles(points), all_pairs(4), 0.2, 0.29)[0].tolist() == [0, 0, 1, 1]
    assert agglomerate(singles(points), all_pairs(4), 0.2, 0.31)[0].tolist() == [0, 0, 0, 0]


def test_a_bridge_of_look_alikes_joins_no_two_people():
    left, right = np.zeros((5, 4), np.float32), np.zeros((5, 4), np.float32)
    right[:, 0] = 1.0
    chain = np.zeros((3, 4), np.float32)
    chain[:, 0] = [0.25, 0.5, 0.75]
    points = np.concatenate([left, chain, right])
    labels, _ = agglomerate(singles(points), all_pairs(13), 0.3**2, 0.35**2)
    assert len(set(labels[:5])) == len(set(labels[8:])) == 1
    assert labels[0] != labels[12]


def test_only_given_pairs_are_compared():
    points = np.zeros((4, 2), np.float32)
    labels, groups = agglomerate(singles(points), np.array([[0, 1], [3, 2]]), 0.1, 0.1)
    assert labels.tolist() == [0, 0, 1, 1]
    assert groups.counts.tolist() == [2, 2]


def test_no_faces_and_no_pairs_are_no_trouble():
    empty = np.empty((0, 2), np.int64)
    labels, groups = agglomerate(singles(np.empty((0, 3), np.float32)), empty, 0.1, 0.1)
    assert len(labels) == len(groups.counts) == 0
    assert agglomerate(singles(np.eye(3, dtype=np.float32)), empty, 0.1, 0.1)[0].tolist() == [
        0,
        1,
        2,
    ]


def test_pairs_are_told_once_and_never_of_one():
    assert unique_pairs(np.array([[2, 1], [1, 2], [3, 3], [0, 3]]), 4).tolist() == [[0, 3], [1, 2]]


@pytest.mark.parametrize("at_once", [1, 7, 64, 1 << 25])
def test_sums_are_the_same_however_few_vectors_are_added_at_once(at_once, monkeypatch):
    """Of groups larger than a slice, smaller, and ones that begin in one and end in the next."""
    _, vectors, labels = crowd(people=30, photos=5, dim=4)
    labels = np.where(np.arange(len(labels)) % 9 == 0, -1, labels % 11)
    points, _ = prepare(vectors, "l2")
    monkeypatch.setattr(ours, "_NUMBERS_AT_ONCE", at_once)
    groups = Groups.of(points, labels, 12)
    for group in range(12):
        members = points[labels == group].astype(np.float64)
        assert groups.counts[group] == len(members)
        assert np.array_equal(groups.sums[group], members.sum(axis=0))
        assert groups.squares[group] == np.square(members).sum()
    merged = groups.merged(np.arange(12) // 5, 3)
    assert np.array_equal(merged.sums[1], groups.sums[5:10].sum(axis=0))
    assert merged.counts.tolist() == [groups.counts[a : a + 5].sum() for a in (0, 5, 10)]
