"""Photographs of one person are found by their vectors, and nobody is joined by a bridge."""

import numpy as np
import pytest

from training.people import group_people


def crowd(people=40, photos=6, noise=0.02, seed=0):
    rng = np.random.default_rng(seed)
    who = rng.normal(size=(people, 64))
    who /= np.linalg.norm(who, axis=1, keepdims=True)
    labels = rng.permutation(np.repeat(np.arange(people), photos))
    vectors = who[labels] + noise * rng.normal(size=(len(labels), 64))
    return vectors.astype(np.float32), labels


def same(groups, labels):
    """Whether two groupings put the same pairs together."""
    return ((groups[:, None] == groups) == (labels[:, None] == labels)).all()


@pytest.mark.parametrize(("metric", "below"), [("l2", 0.6), ("cosine", 0.3)])
def test_the_photographs_of_every_person_are_found(metric, below):
    vectors, labels = crowd()
    assert same(group_people(vectors, below, metric), labels)


def test_the_length_of_vectors_does_not_matter_to_cosine_distance():
    vectors, labels = crowd()
    lengths = np.random.default_rng(1).uniform(0.5, 30, (len(vectors), 1)).astype(np.float32)
    assert same(group_people(vectors * lengths, 0.3, "cosine"), labels)


def test_a_group_is_named_by_its_first_photograph():
    vectors, _ = crowd(people=3)
    groups = group_people(vectors, 0.6, "l2")
    assert all(groups[first] == first == np.flatnonzero(groups == first)[0] for first in groups)


def test_a_bridge_of_look_alikes_joins_no_two_people():
    left, right = np.zeros((5, 8)), np.zeros((5, 8))
    right[:, 0] = 1.0
    bridge = np.zeros((1, 8))
    bridge[0, 0] = 0.5
    spread = 0.01 * np.random.default_rng(0).normal(size=(11, 8))
    vectors = (np.concatenate([left, bridge, right]) + spread).astype(np.float32)
    groups = group_people(vectors, 0.6, "l2")
    assert len(set(groups[:5])) == len(set(groups[6:])) == 1
    assert groups[0] != groups[10]


def test_no_two_photographs_of_a_group_are_as_far_apart_as_the_threshold():
    vectors = np.random.default_rng(2).normal(size=(400, 4)).astype(np.float32)
    groups = group_people(vectors, 0.8, "l2")
    assert len(set(groups)) < 300
    for first in set(groups):
        mine = vectors[groups == first].astype(np.float64)
        assert np.linalg.norm(mine[:, None] - mine, axis=-1).max() < 0.8


def test_the_same_vectors_give_the_same_groups_in_one_block_or_many(monkeypatch):
    vectors, _ = crowd(noise=0.06)
    whole = group_people(vectors, 0.6, "l2")
    monkeypatch.setattr("training.people._BLOCK_ROWS", 7)
    assert np.array_equal(whole, group_people(vectors, 0.6, "l2"))


def test_equal_photographs_are_one_person_and_a_lonely_one_is_itself():
    vectors = np.array([[0, 0], [5, 5], [0, 0], [0, 0]], np.float32)
    assert group_people(vectors, 0.1, "l2").tolist() == [0, 1, 0, 0]
    assert group_people(vectors[1:2], 0.1, "l2").tolist() == [0]
