import numpy as np
import pytest

from infra.errors import BadInput
from stages.people.clusters import REASONS, find_people, name_of
from tests.stages.people.crowds import POINTS, crowd, same_groups


def test_the_photos_of_every_person_are_found():
    ids, vectors, labels = crowd()
    people = find_people(ids, vectors, POINTS)
    assert same_groups(people.identity, labels)
    assert set(people.reason) == {""}


def test_the_same_holds_for_distances_between_raw_vectors():
    ids, vectors, labels = crowd()
    points = type(POINTS)(
        metric="l2",
        pair_below=0.5,
        group_below=0.55,
        labelled_below=0.6,
        duplicate_below=0.01,
    )
    assert same_groups(find_people(ids, vectors, points).identity, labels)


def test_the_order_of_rows_changes_nothing():
    ids, vectors, _ = crowd(noise=0.05)
    turned = np.random.default_rng(0).permutation(len(ids))
    people = find_people(ids, vectors, POINTS)
    again = find_people([ids[i] for i in turned], vectors[turned], POINTS)
    assert [people.identity[i] for i in turned] == again.identity
    assert np.array_equal(people.score[turned], again.score)


def test_an_identity_is_named_after_its_smallest_id():
    ids, vectors, labels = crowd(people=2)
    people = find_people(ids, vectors, POINTS)
    assert people.identity[0] == name_of(ids[0])
    other = int(np.flatnonzero(labels != labels[0])[0])
    assert people.identity[other] == name_of(ids[other])


def test_a_person_with_more_photos_than_neighbours_stays_one():
    rng = np.random.default_rng(0)
    middle = np.zeros(32)
    middle[0] = 1
    # Two looks of one person: with four neighbours each, no face sees one of the other look.
    looks = [middle + 0.2 * side * np.eye(32)[1] for side in (1, -1)]
    vectors = np.concatenate([look + 0.005 * rng.normal(size=(40, 32)) for look in looks])
    people = find_people([f"{i:03}" for i in range(80)], vectors.astype(np.float32), POINTS, k=4)
    assert len(set(people.identity)) == 1


def test_faces_of_nobody_say_why():
    ids, vectors, _ = crowd(people=3, photos=3)
    vectors[0] = np.nan
    vectors[1] = 0
    vectors[2] = np.random.default_rng(9).normal(size=64)
    people = find_people(ids, vectors, POINTS)
    assert people.reason[:3] == ["bad_embedding", "bad_embedding", "lone_face"]
    assert people.identity[:3] == ["", "", ""]
    assert people.score[:3].tolist() == [0, 0, 0]
    assert set(people.reason) <= {"", *REASONS}


def test_with_one_photo_enough_everybody_is_somebody():
    ids, vectors, _ = crowd(people=5, photos=1)
    people = find_people(ids, vectors, POINTS, min_photos=1)
    assert len(set(people.identity)) == 5
    assert set(people.reason) == {""}


def test_a_clear_face_scores_more_than_one_between_two_people():
    rng = np.random.default_rng(0)
    a, b = np.eye(16)[:2]
    near_b = a + 0.35 * b
    vectors = np.concatenate([a + 0.01 * rng.normal(size=(5, 16)), [near_b], [b, b, b]])
    people = find_people(list("abcdefghi"), vectors.astype(np.float32), POINTS)
    assert people.identity[5] == people.identity[0] != people.identity[6]
    assert people.score[5] < people.score[:5].min()
    assert ((people.score >= 0) & (people.score <= 1)).all()
    assert people.score[6] == 1


@pytest.mark.parametrize("faces", [0, 1])
def test_hardly_any_faces_are_a_result_too(faces):
    people = find_people(["x"] * faces, np.ones((faces, 8), np.float32), POINTS)
    assert people.identity == [""] * faces
    assert people.reason == ["lone_face"] * faces
    assert len(people.score) == faces


def test_nothing_but_broken_vectors_is_a_result_too():
    people = find_people(["a", "b"], np.full((2, 8), np.nan, np.float32), POINTS)
    assert people.reason == ["bad_embedding"] * 2


def test_all_photos_of_one_person_are_one_identity():
    ids, vectors, _ = crowd(people=1, photos=70)
    assert set(find_people(ids, vectors, POINTS).identity) == {name_of(ids[0])}


def test_two_faces_with_one_id_are_refused():
    with pytest.raises(BadInput, match="Two faces have the id 'a'"):
        find_people(["a", "b", "a"], np.eye(3, dtype=np.float32), POINTS)
    with pytest.raises(BadInput, match="1 ids were given with 3 vectors"):
        find_people(["a"], np.eye(3, dtype=np.float32), POINTS)


def test_what_a_batch_changes_in_a_vector_changes_no_identity():
    ids, vectors, _ = crowd(people=60, noise=0.03)
    moved = vectors + np.random.default_rng(1).uniform(-2e-7, 2e-7, vectors.shape)
    again = find_people(ids, moved.astype(np.float32), POINTS)
    assert again.identity == find_people(ids, vectors, POINTS).identity
