import numpy as np
import pytest
from scipy import stats

from infra.errors import BadValue
from stages.models.faces import distance
from training.evaluation.metrics import (
    auc,
    auc_score,
    cosines,
    diversity,
    face_sim,
    flattened,
    lowest_tenth,
    mean_score,
    nearest,
    own_and_others,
    paired,
    pairwise,
    wilcoxon_greater,
)


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


def test_the_auc_of_a_table_is_that_of_its_diagonal_against_the_rest():
    between = np.random.default_rng(0).integers(0, 30, (20, 20)).astype(float)
    between[np.diag_indices(20)] -= 5
    mine = np.eye(20, dtype=bool)
    score, parts = auc_score(between)
    assert score.value == pytest.approx(auc(between[mine], between[~mine]))
    assert parts.mean() == pytest.approx(score.value)
    assert score.low < score.value < score.high
    assert score.n == 20


def test_a_picture_without_a_face_wins_no_comparison_and_says_nothing_of_others():
    between = np.array([[0.0, 2.0, 2.0], [2.0, 0.0, 2.0], [np.nan] * 3])
    score, parts = auc_score(between)
    assert parts.tolist() == [1.0, 1.0, 0.0]
    assert score.value == pytest.approx(2 / 3)


@pytest.mark.parametrize("between", [np.zeros((1, 1)), np.full((4, 4), np.nan)])
def test_there_is_no_auc_of_one_person_or_of_no_face(between):
    score, parts = auc_score(between)
    assert score is None
    assert np.isnan(parts).all()


def test_the_interval_of_an_auc_covers_the_truth_about_as_often_as_it_says():
    truth = stats.norm.cdf(1 / np.sqrt(2))
    covered = 0
    for seed in range(40):
        between = np.random.default_rng(seed).normal(size=(25, 25))
        between[np.diag_indices(25)] -= 1
        score, _ = auc_score(between)
        covered += score.low <= truth <= score.high
    assert covered >= 34


def test_a_mean_has_the_interval_of_its_standard_error():
    values = np.tile([0.0, 1.0], 50)
    score = mean_score(values)
    assert (score.value, score.n) == (0.5, 100)
    assert (score.low, score.high) == pytest.approx((0.5 - 0.098, 0.5 + 0.098), abs=0.015)
    assert mean_score(values) == score
    uneven = np.random.default_rng(0).normal(size=30)
    assert mean_score(uneven, seed=1) != mean_score(uneven)


def test_who_says_nothing_is_left_out_and_counted_so():
    assert mean_score(np.array([1.0, np.nan, 3.0])).n == 2
    assert mean_score(np.array([np.nan])) is None


def test_the_lowest_tenth_is_a_percentile_with_an_interval():
    score = mean_score(np.arange(101.0), statistic=lowest_tenth)
    assert score.value == pytest.approx(10)
    assert score.low < 10 < score.high


def test_a_picture_without_a_face_counts_as_zero_unless_published():
    similarities = np.array([0.8, 0.6, np.nan, -0.5])
    assert face_sim(similarities).tolist() == [0.8, 0.6, 0.0, 0.0]
    assert np.isnan(face_sim(similarities, published=True)).tolist() == [False, False, True, False]


def test_a_comparison_knows_pairs():
    # What makes a pair hard is the same in a and b and must not widen the interval.
    hardness = np.linspace(0, 100, 50)
    a = hardness + np.tile([0.9, 1.1], 25)
    found = paired(a, hardness)
    assert found.mean == pytest.approx(1.0)
    # The mean's standard error is 0.1 / sqrt(50) = 0.014.
    assert (found.low, found.high) == pytest.approx((0.972, 1.028), abs=0.005)
    assert found.p == pytest.approx(1e-4)  # no turn of 9,999 reaches it
    assert paired(a, hardness) == found


def test_the_p_of_a_comparison_is_that_of_exact_permutation():
    a = np.array([1.0, 2.5, -0.7, 4.9, 0.2, 1.1, -0.4])
    exact = stats.permutation_test(
        (a,), np.mean, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert paired(a, np.zeros(7)).p == pytest.approx(exact, abs=0.02)
    assert paired(np.ones(4), np.ones(4)).p == 1.0


def test_who_is_missing_in_either_is_no_pair():
    nan = np.nan
    assert paired(np.array([1.0, nan, 3.0]), np.array([1.0, 2.0, nan])).n == 1
    with pytest.raises(BadValue, match="pairs cannot be 0: give at least one pair"):
        paired(np.array([nan]), np.array([1.0]))


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
    np.testing.assert_allclose(cosines(a, b[:4]), 1 - np.diag(pairwise(a, b, "cosine")), atol=1e-6)


def test_the_nearest_is_found_over_chunks_and_of_nobody_is_nan():
    training = np.array([[0.0, 0.0], [9.0, 9.0], [3.0, 4.0], [8.0, 8.0], [0.0, 1.0]])
    faces = np.array([[3.0, 4.0], [0.0, 3.0], [np.nan, np.nan]])
    found = nearest(faces, [training[:2], training[2:4], training[4:]])
    np.testing.assert_allclose(found, [0.0, 2.0, np.nan], atol=1e-6)


def test_diversity_is_per_person_and_needs_two_faces():
    nan = np.nan
    vectors = np.array([[[0.0], [1.0], [2.0]], [[0.0], [4.0], [nan]], [[5.0], [nan], [nan]]])
    np.testing.assert_allclose(diversity(vectors), [4 / 3, 4.0, nan], atol=1e-6)


def test_own_and_others_are_the_diagonal_and_the_mean_of_the_rest():
    own, others = own_and_others(np.array([[1.0, 2.0, 4.0], [5.0, 6.0, 7.0], [0.0, 0.0, 9.0]]))
    assert (own.tolist(), others.tolist()) == ([1.0, 6.0, 9.0], [3.0, 6.0, 0.0])
    assert np.isnan(own_and_others(np.ones((1, 1)))[1]).all()


def test_flattened_scores_are_plain_numbers():
    score = mean_score(np.array([1.0, 1.0]))
    assert flattened({"a": score}) == {"a": {"value": 1.0, "low": 1.0, "high": 1.0, "n": 2}}
