"""New people as vectors: how far from whom, and how their variations lie."""

from math import cos, radians

import numpy as np
import pytest

from infra.errors import BadValue
from training.synthetic import BELOW, describe, most_variation_deg, new_people, variation

DIM, BOUND = 64, 0.5


def real_people(people=40, photos=4, *, centre=0.0, seed=0):
    """Vectors of people, and a yaw that moves each along one axis."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), photos)
    yaw = rng.uniform(-30, 30, len(who))
    vectors = rng.standard_normal((people, DIM))[who] + centre
    vectors += 0.2 * rng.standard_normal(vectors.shape)
    vectors[:, 3] += 0.05 * yaw
    return vectors.astype(np.float32), [f"p{n:03d}" for n in who], yaw


def described(metric="l2", **how):
    vectors, whose, yaw = real_people(**how)
    return describe(vectors, whose, metric, measured={"yaw_deg": yaw})


def similarities(space, a, b):
    return space.compared(a) @ space.compared(b).T


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_new_people_are_unlike_one_another_and_everybody_real(metric):
    space = described(metric)
    drawn = new_people(space, [""] * 60, BELOW[metric], seed=1)
    between = similarities(space, drawn, drawn)
    assert between[~np.eye(60, dtype=bool)].max() < BELOW[metric]
    assert similarities(space, drawn, space.people).max() < BELOW[metric]


def test_vectors_around_one_direction_are_compared_without_it():
    space = described("l2", centre=20.0)
    raw = describe(*real_people(centre=20.0)[:2], "cosine")
    drawn = new_people(space, [""] * 20, BOUND, seed=1)
    assert similarities(space, drawn, drawn)[~np.eye(20, dtype=bool)].max() < BOUND
    with pytest.raises(BadValue, match="51,200 draws gave nobody"):
        new_people(raw, ["", ""], BOUND, seed=1)


def test_new_people_lie_where_real_ones_do():
    space = described(people=300)
    drawn = new_people(space, [""] * 200, 0.6, seed=0)
    assert drawn.mean(0) == pytest.approx(space.people.mean(0), abs=0.35)
    assert drawn.std(0).mean() == pytest.approx(space.people.std(0).mean(), rel=0.1)


def test_a_seed_gives_the_same_people_and_a_longer_list_begins_with_them():
    space = described()
    few, many = (new_people(space, [""] * n, BOUND, seed=3) for n in (5, 12))
    assert np.array_equal(few, many[:5])
    assert not np.array_equal(few, new_people(space, [""] * 5, BOUND, seed=4))


def test_where_there_is_no_room_it_is_said_and_what_helps():
    with pytest.raises(BadValue, match=r"after \d+ people, .* raise it, or ask for fewer"):
        new_people(described(people=3), [""] * 50, 0.01, seed=0)


def test_groups_are_drawn_around_their_own_mean():
    vectors, whose, _ = real_people(people=60)
    tall = {name for name in whose if int(name[1:]) % 2}
    vectors[[name in tall for name in whose], 0] += 6.0
    groups = {name: "tall" if name in tall else "small" for name in set(whose)}
    space = describe(vectors, whose, "l2", groups=groups)
    drawn = new_people(space, ["tall", "small"] * 20, 0.9, seed=0)
    assert (drawn[::2, 0] > 3).mean() > 0.9
    assert (drawn[1::2, 0] < 3).mean() > 0.9


def test_a_group_of_one_and_a_corpus_of_one_are_refused():
    vectors, whose, _ = real_people(people=3)
    with pytest.raises(BadValue, match="fewer than two people of it"):
        describe(vectors, whose, "l2", groups={"p000": "rare"})
    with pytest.raises(BadValue, match="two or more"):
        describe(vectors, ["one"] * len(vectors), "l2")


def test_variations_stay_within_their_angle_and_keep_their_length():
    space = described("l2", centre=5.0)
    (person,) = new_people(space, [""], BOUND, seed=0)
    rng = np.random.default_rng(0)
    many = np.stack([variation(space, person, {"yaw_deg": 500.0}, 15.0, rng) for _ in range(50)])
    assert similarities(space, many, person[None]).min() >= cos(radians(15.0)) - 1e-5
    lengths = np.linalg.norm(many - space.centre, axis=1)
    assert lengths == pytest.approx(np.linalg.norm(person - space.centre), rel=1e-4)
    free = np.stack([variation(space, person, {}, 15.0, rng) for _ in range(200)])
    angles = np.degrees(np.arccos(similarities(space, free, person[None])[:, 0].clip(-1, 1)))
    assert angles.mean() == pytest.approx(7.5, abs=1.5)


def test_two_variations_of_one_person_are_more_alike_than_of_two_people():
    space = described()
    drawn = new_people(space, [""] * 20, BOUND, seed=0)
    rng, most = np.random.default_rng(0), most_variation_deg(BOUND)
    many = np.stack([variation(space, one, {}, most, rng) for one in drawn for _ in range(6)])
    between = similarities(space, many, many)
    own = np.kron(np.eye(20, dtype=bool), np.ones((6, 6), dtype=bool))
    assert most == pytest.approx(15.0)
    assert between[own].min() >= between[~own].max()


def test_an_attribute_moves_the_vector_as_it_moves_real_ones():
    space = described(people=100)
    (person,) = new_people(space, [""], BOUND, seed=0)
    assert space.slopes[0, 3] == pytest.approx(0.05, abs=0.005)
    assert np.abs(np.delete(space.slopes[0], 3)).max() < 0.005
    rng = np.random.default_rng(0)
    left, right = (
        np.mean([variation(space, person, {"yaw_deg": yaw}, 12.0, rng)[3] for _ in range(200)])
        for yaw in (-20.0, 20.0)
    )
    assert right - left == pytest.approx(40 * 0.05, rel=0.25)
    assert 0.1 < space.explained["yaw_deg"] < 0.5


def test_an_attribute_that_was_never_measured_says_nothing():
    vectors, whose, _ = real_people()
    nothing = np.full(len(vectors), np.nan)
    space = describe(vectors, whose, "l2", measured={"exposure": nothing})
    assert space.explained == {"exposure": 0.0}
    assert not space.slopes.any()


def test_people_with_one_photograph_each_vary_as_people_differ():
    vectors, whose, yaw = real_people(photos=1)
    space = describe(vectors, whose, "cosine", measured={"yaw_deg": yaw})
    assert np.array_equal(space.within, space.axes)
    turned = variation(space, vectors[0], {"yaw_deg": 10.0}, 10.0, np.random.default_rng(0))
    assert similarities(space, turned[None], vectors[:1]).min() >= cos(radians(10.0)) - 1e-5
