from dataclasses import replace

import numpy as np
import pytest

from infra.errors import BadInput
from stages.people.cast import CAST_REASONS, clean_labels
from tests.stages.people.crowds import POINTS, crowd


def spoilt(people, share, seed=0):
    """Give a share of the labels to other faces, at random."""
    rng = np.random.default_rng(seed)
    given = people.copy()
    swapped = rng.permutation(len(people))[: int(share * len(people))]
    given[swapped] = given[rng.permutation(swapped)]
    return given


def text(people):
    return [f"p{person:02d}" for person in people]


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_swapped_labels_are_dropped_and_true_ones_kept(share):
    ids, vectors, people = crowd(people=40, photos=10)
    given = spoilt(people, share)
    clean = clean_labels(ids, vectors, text(given), POINTS)
    assert [label != "" for label in clean.label] == (given == people).tolist()
    assert [a for a in clean.label if a] == text(people[given == people])
    assert set(clean.reason) == {"", "not_the_person"}


def test_clean_labels_stay_as_they_are():
    ids, vectors, people = crowd()
    clean = clean_labels(ids, vectors, text(people), POINTS)
    assert clean.label == text(people)
    assert (clean.score > 0.5).all()


def test_two_labels_of_one_person_become_the_larger():
    ids, vectors, people = crowd(people=3, photos=8)
    rows = np.flatnonzero(people == 0)
    labels = np.array(text(people))
    labels[rows[:3]] = "another name"
    clean = clean_labels(ids, vectors, labels.tolist(), POINTS)
    assert {clean.label[row] for row in rows} == {"p00"}
    assert sum(step.changed for step in clean.steps if step.name == "merged labels") == 1


def test_a_label_that_may_be_another_is_dropped_with_its_larger_kept():
    # The two looks are further apart than six photos may be, and nearer than many may.
    limits = replace(POINTS, pair_below=0.02, group_below=0.1)
    a = np.tile(np.eye(8)[0], (4, 1))
    b = np.tile(np.eye(8)[0] + 0.42 * np.eye(8)[1], (2, 1))
    vectors = np.concatenate([a, b]).astype(np.float32)
    vectors += 1e-2 * np.random.default_rng(0).normal(size=vectors.shape).astype(np.float32)
    clean = clean_labels(list("abcdef"), vectors, ["A"] * 4 + ["B"] * 2, limits)
    assert clean.label == ["A"] * 4 + [""] * 2
    assert clean.reason[4:] == ["doubtful_label"] * 2


def test_a_face_between_two_people_is_doubtful():
    a, b = np.eye(16)[:2]
    rng = np.random.default_rng(0)
    tight = [who + 0.02 * rng.normal(size=16) for who in (a, a, a, a, b, b, b, b)]
    vectors = np.array([*tight, a + 0.95 * b], np.float32)
    loose = replace(POINTS, labelled_below=0.5)
    labels = ["A"] * 4 + ["B"] * 4 + ["A"]
    clean = clean_labels(list("abcdefghi"), vectors, labels, loose, min_score=0.2)
    assert clean.reason == [*[""] * 8, "doubtful_face"]
    kept = clean_labels(list("abcdefghi"), vectors, labels, loose, min_score=0.0)
    assert kept.reason[8] == ""
    assert 0 < kept.score[8] < 0.2


def test_nearly_equal_photos_of_a_person_are_kept_once():
    ids, vectors, people = crowd(people=3, photos=5)
    vectors[1:3] = vectors[0]
    people[1:3] = people[0]
    clean = clean_labels(ids, vectors, text(people), POINTS)
    assert sorted(clean.reason[:3]) == ["", "same_photo", "same_photo"]
    assert set(clean.reason[3:]) == {""}


def test_equal_photos_under_two_labels_count_for_the_merged_one_once():
    ids, vectors, _ = crowd(people=1, photos=6)
    vectors[5] = vectors[0]
    clean = clean_labels(ids, vectors, ["A", "A", "A", "B", "B", "B"], POINTS)
    assert sorted(clean.reason) == [*[""] * 5, "same_photo"]
    assert len({label for label in clean.label if label}) == 1


def test_whoever_is_in_the_benchmark_is_dropped_whole():
    ids, vectors, people = crowd(people=4, photos=6)
    known = vectors[people == 2][:1] + 1e-3
    clean = clean_labels(ids, vectors, text(people), POINTS, benchmark=known)
    dropped = [why == "benchmark_person" for why in clean.reason]
    assert dropped == (people == 2).tolist()
    none = clean_labels(ids, vectors, text(people), POINTS, benchmark=np.full((1, 64), np.nan))
    assert none.label == text(people)


def test_photos_that_nothing_speaks_for_say_why():
    ids, vectors, people = crowd(people=3, photos=4)
    labels = text(people)
    vectors[0] = np.nan
    labels[1] = ""
    labels[2] = "somebody else"
    clean = clean_labels(ids, vectors, labels, POINTS)
    assert clean.reason[:3] == ["bad_embedding", "no_label", "unsupported_label"]
    assert clean.label[:3] == ["", "", ""]
    assert set(clean.reason) <= {"", *CAST_REASONS}


def test_every_step_tells_its_numbers():
    ids, vectors, people = crowd(people=20, photos=10)
    clean = clean_labels(ids, vectors, text(spoilt(people, 0.3)), POINTS)
    assert clean.steps[0].kept == 200
    assert clean.steps[-1].kept == sum(why == "" for why in clean.reason)
    assert clean.steps[-1].labels == 20
    assert any(step.name.startswith("centres") and step.changed == 0 for step in clean.steps)


def test_the_order_of_rows_changes_nothing():
    ids, vectors, people = crowd(people=20, photos=8, noise=0.06)
    labels = text(spoilt(people, 0.3))
    turned = np.random.default_rng(0).permutation(len(ids))
    clean = clean_labels(ids, vectors, labels, POINTS)
    again = clean_labels(
        [ids[i] for i in turned], vectors[turned], [labels[i] for i in turned], POINTS
    )
    assert [clean.label[i] for i in turned] == again.label
    assert [clean.reason[i] for i in turned] == again.reason
    assert np.array_equal(clean.score[turned], again.score)
    assert clean.steps == again.steps


def test_a_label_of_very_many_photos_is_cleaned_too():
    ids, vectors, people = crowd(people=2, photos=400)
    given = spoilt(people, 0.2)
    clean = clean_labels(ids, vectors, text(given), POINTS)
    assert [label != "" for label in clean.label] == (given == people).tolist()


@pytest.mark.parametrize("label", ["", " ", "a/b\n\u202e", "Ren\u00e9e O'Brien", "\udcff", "\x00"])
def test_labels_are_any_text(label):
    ids, vectors, _ = crowd(people=1, photos=3)
    clean = clean_labels(ids, vectors, [label] * 3, POINTS)
    assert clean.label == [label] * 3


@pytest.mark.parametrize("faces", [0, 1])
def test_hardly_any_faces_are_a_result_too(faces):
    vectors = np.ones((faces, 8), np.float32)
    known = np.ones((2, 8), np.float32)
    clean = clean_labels(["x"] * faces, vectors, ["A"] * faces, POINTS, benchmark=known)
    assert clean.label == [""] * faces
    assert clean.reason == ["unsupported_label"] * faces


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(BadInput, match="2 labels were given with 1 ids"):
        clean_labels(["a"], np.ones((1, 8), np.float32), ["A", "B"], POINTS)
