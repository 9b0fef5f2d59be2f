"""Scores of drawn people, on vectors whose angles are known."""

import numpy as np
import pytest

from training.evaluation.separation import separation
from training.synthetic import describe


def space_of(people):
    """Real people at these vectors, compared by cosine from the origin."""
    names = [f"p{n}" for n in range(len(people))]
    return describe(np.asarray(people, np.float32), names, "cosine")


def at(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles), np.zeros(len(angles))], axis=1)


REAL = space_of([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]])


def test_scores_are_those_of_a_hand_computation():
    vectors = at(0, 60, 90, 90)
    told = {n: s.value for n, s in separation(REAL, vectors, [0, 0, 1, 1], 0.5).items()}
    assert told["consistency"] == pytest.approx((0.5 + 1.0) / 2)
    assert told["consistent_share"] == 1.0
    assert told["impostor_similarity"] == pytest.approx(0.0, abs=1e-9)
    assert (told["impostor_share"], told["separable_share"]) == (0.0, 1.0)
    assert told["nearest_real"] == pytest.approx(0.0, abs=1e-6)
    assert (told["cloned_share"], told["cloned_share_of_real"], told["auc"]) == (0.0, 0.0, 1.0)
    assert told["nearest_real_of_real"] == pytest.approx(0.0, abs=1e-6)


def test_people_drawn_alike_and_somebody_real_are_seen():
    vectors = np.concatenate([at(180, 180), at(170, 170)])
    told = {n: s.value for n, s in separation(REAL, vectors, [0, 0, 1, 1], 0.5).items()}
    assert (told["impostor_share"], told["separable_share"]) == (1.0, 0.0)
    assert told["cloned_share"] == 1.0


def test_pictures_without_a_face_say_nothing():
    vectors = at(0, 0, 90, 90)
    vectors[3] = np.nan
    told = separation(REAL, vectors, [0, 0, 1, 1], 0.5)
    assert told["consistency"].n == 1
    assert told["impostor_similarity"].n == 2
    assert separation(REAL, np.full((2, 3), np.nan), [0, 0], 0.5) == {}


def test_one_person_alone_is_told_from_nobody():
    told = separation(REAL, at(0, 10), [7, 7], 0.5)
    assert not {"impostor_share", "separable_share", "auc"} & told.keys()
    assert told["consistency"].value == pytest.approx(np.cos(np.radians(10)))


def test_many_people_are_compared_some_at_a_time():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1100, 3))
    told = separation(REAL, vectors, list(range(1100)), 0.99)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    between = (units @ units.T)[~np.eye(1100, dtype=bool)]
    assert told["impostor_similarity"].value == pytest.approx(between.mean(), abs=1e-6)
    assert told["impostor_share"].value == pytest.approx((between >= 0.99).mean(), abs=1e-6)
