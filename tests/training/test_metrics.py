import cv2
import numpy as np
import pytest
from scipy import stats

from infra.errors import BadValue
from stages.models.backend import load_detector, load_embedder
from stages.models.faces import distance
from tests.stages.models.photos import group
from training.metrics import (
    auc,
    diversity,
    embed_pictures,
    face_sim,
    identity_scores,
    leakage,
    paired_bootstrap,
    pairwise,
    wilcoxon_greater,
)

PEOPLE = [f"person {i}" for i in range(6)]
BLANK = np.full((64, 64, 3), 128, dtype=np.uint8)


@pytest.fixture(scope="module")
def six():
    """Six people: a photograph of each, cut from the group; a chip of 64 px; the vector."""
    (faces,) = load_detector("dlib", "", 1280, 0.0, "cpu").detect([group()])
    embedder = load_embedder("dlib", "", "cpu")
    chips = embedder.align(group(), faces.landmarks_px)
    photos = []
    for left, top, right, bottom in faces.boxes_px.astype(int):
        middle_x, middle_y = (left + right) // 2, (top + bottom) // 2
        photos.append(group()[middle_y - 100 : middle_y + 100, middle_x - 80 : middle_x + 80])
    small = [cv2.resize(chip, (64, 64), interpolation=cv2.INTER_AREA) for chip in chips]
    return photos, small, embedder.embed(chips)


def test_auc_counts_pairs_and_ties_half():
    own, others = np.array([1.0, 3.0]), np.array([2.0, 3.0, 4.0])
    # 1 is below all three; 3 is above 2, ties with 3, below 4.
    assert auc(own, others) == pytest.approx((3 + 0 + 0.5 + 1) / 6)


def test_auc_is_that_of_mann_and_whitney():
    rng = np.random.default_rng(0)
    own, others = rng.integers(0, 20, 50).astype(float), rng.integers(5, 25, (7, 9)).astype(float)
    u = stats.mannwhitneyu(others.ravel(), own).statistic
    assert auc(own, others) == pytest.approx(u / (50 * 63))


def test_auc_of_nothing_is_nan():
    assert np.isnan(auc(np.array([]), np.array([1.0])))


def test_a_picture_without_a_face_counts_as_zero_unless_published():
    similarities, found = np.array([0.8, 0.6, np.nan]), np.array([True, True, False])
    mean, p10 = face_sim(similarities, found)
    assert mean == pytest.approx(1.4 / 3)
    assert p10 == pytest.approx(0.2 * 0.6)  # a fifth of the way from the first to the second
    assert face_sim(similarities, found, published=True)[0] == pytest.approx(0.7)


def test_the_opposite_of_a_person_is_no_worse_than_no_face():
    found = np.array([True, True])
    assert face_sim(np.array([-0.5, 0.5]), found)[0] == pytest.approx(0.25)


def test_face_sim_of_no_faces_is_zero_and_unknown_when_published():
    nobody = np.array([False]), np.array([0.9])
    assert face_sim(nobody[1], nobody[0]) == (0.0, 0.0)
    assert np.isnan(face_sim(nobody[1], nobody[0], published=True)).all()


def test_the_bootstrap_knows_pairs():
    # What makes a pair hard is the same in a and b and must not widen the interval.
    hardness = np.linspace(0, 100, 50)
    a = hardness + np.tile([0.9, 1.1], 25)
    mean, low, high = paired_bootstrap(a, hardness, seed=0)
    assert mean == pytest.approx(1.0)
    # The mean's standard error is 0.1 / sqrt(50) = 0.014.
    assert (low, high) == pytest.approx((1 - 1.96 * 0.0141, 1 + 1.96 * 0.0141), abs=0.005)


def test_the_bootstrap_repeats_itself():
    a, b = np.random.default_rng(0).normal(size=(2, 30))
    assert paired_bootstrap(a, b, seed=3) == paired_bootstrap(a, b, seed=3)
    assert paired_bootstrap(a, b, seed=3) != paired_bootstrap(a, b, seed=4)


def test_the_bootstrap_of_no_pairs_is_refused():
    with pytest.raises(BadValue, match="pairs cannot be 0: give at least one pair"):
        paired_bootstrap(np.array([]), np.array([]), seed=0)


def test_five_greater_pairs_have_a_chance_of_one_in_two_to_the_fifth():
    a = np.array([1.0, 2.5, 3.7, 4.9, 6.2])
    assert wilcoxon_greater(a, np.zeros(5)) == pytest.approx(1 / 32)
    assert wilcoxon_greater(np.zeros(5), a) == 1.0


def test_equal_scores_are_no_evidence():
    assert wilcoxon_greater(np.ones(4), np.ones(4)) == 1.0


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_pairwise_agrees_with_distance(metric):
    a, b = (np.random.default_rng(i).normal(size=(n, 8)) for i, n in enumerate((4, 5)))
    a, b = a.astype(np.float32), b.astype(np.float32)
    expected = [[distance(x, y, metric) for y in b] for x in a]
    np.testing.assert_allclose(pairwise(a, b, metric), expected, atol=1e-6)


def test_leakage_is_the_distance_to_the_nearest(monkeypatch):
    monkeypatch.setattr("training.metrics._CHUNK", 2)
    training = np.array([[0.0, 0.0], [9.0, 9.0], [3.0, 4.0], [8.0, 8.0], [0.0, 1.0]])
    generated = np.array([[3.0, 4.0], [0.0, 3.0]])
    np.testing.assert_allclose(leakage(generated, training), [0.0, 2.0], atol=1e-6)


def test_diversity_weighs_people_and_not_pictures():
    line = np.array([[0.0], [1.0], [2.0]])  # distances 1, 1, 2
    held = {"a": line, "b": np.array([[0.0], [4.0]]), "alone": np.array([[5.0]])}
    assert diversity(held) == pytest.approx((4 / 3 + 4) / 2)
    assert np.isnan(diversity({"alone": held["alone"]}))


def test_photographs_of_the_people_asked_for_score_full(six):
    photos, _, vectors = six
    scores = identity_scores(photos, vectors, PEOPLE, "dlib")
    assert (scores.auc, scores.same_person_share, scores.face_share) == (1.0, 1.0, 1.0)
    assert scores.own_distance < 0.2 < 0.6 < scores.other_distance


def test_photographs_of_other_people_score_nothing(six):
    photos, _, vectors = six
    scores = identity_scores(photos[1:] + photos[:1], vectors, PEOPLE, "dlib")
    assert scores.same_person_share == 0.0
    assert abs(scores.auc - 0.5) < 0.2  # chance
    assert scores.face_share == 1.0


def test_other_photographs_of_oneself_are_not_other_people(six):
    photos, _, vectors = six
    twice = identity_scores(photos * 2, np.tile(vectors, (2, 1)), PEOPLE * 2, "dlib")
    once = identity_scores(photos, vectors, PEOPLE, "dlib")
    assert twice.auc == once.auc == 1.0
    assert twice.other_distance == pytest.approx(once.other_distance)


def test_a_picture_without_a_face_is_nobody(six):
    photos, _, vectors = six
    scores = identity_scores([*photos[:3], BLANK], vectors[:4], PEOPLE[:4], "dlib")
    assert (scores.face_share, scores.same_person_share) == (0.75, 0.75)
    assert scores.own_distance < 0.2


def test_no_face_at_all_is_said_and_not_scored(six):
    scores = identity_scores([BLANK] * 2, six[2][:2], PEOPLE[:2], "dlib")
    assert (scores.face_share, scores.same_person_share) == (0.0, 0.0)
    assert np.isnan([scores.auc, scores.own_distance, scores.other_distance]).all()


def test_aligned_crops_of_64_px_are_told_apart(six):
    _, small, vectors = six
    scores = identity_scores(small, vectors, PEOPLE, "dlib", aligned=True)
    assert (scores.auc, scores.same_person_share, scores.aligned) == (1.0, 1.0, True)
    assert scores.own_distance < 0.15


def test_aligned_crops_are_embedded_face_or_no_face_and_the_detector_says_which(six):
    _, small, _ = six
    embedded = embed_pictures([small[0], BLANK], "dlib", aligned=True)
    assert np.isfinite(embedded.vectors).all()
    assert embedded.found.tolist() == [True, False]


def test_a_face_that_was_not_found_has_no_vector(six):
    embedded = embed_pictures([BLANK, six[0][0]], "dlib")
    assert np.isnan(embedded.vectors).all(axis=1).tolist() == [True, False]
    assert distance(embedded.vectors[1], six[2][0], "l2") < 0.2


def test_pictures_and_references_must_be_equally_many(six):
    with pytest.raises(BadValue, match=r"cannot be \(1, 6, 6\): give one reference and one name"):
        identity_scores(six[0][:1], six[2], PEOPLE, "dlib")
