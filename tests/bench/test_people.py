import numpy as np
import pytest

from stages.people.settings import PairSettings
from stages.people.thresholds import grouping_points
from tests.bench.pairs import MAX_PDQ, MIN_SAME, look, paired
from tests.bench.people import MIN_F, SWAPPED, agreement, cleaned, crowd, embed, grouped, speed


def test_agreement_is_that_of_the_definitions():
    people = np.array([0, 0, 0, 1, 1, 2])
    assert agreement(people, people) == (1, 1)
    # Pairs: 4 of one person, 4 put together, 2 of them rightly.
    f1, bcubed = agreement(np.array([5, 5, 6, 6, 6, 7]), people)
    assert f1 == pytest.approx(2 / 4)
    precision = (1 + 1 + 1 / 3 + 2 / 3 + 2 / 3 + 1) / 6
    recall = (2 / 3 + 2 / 3 + 1 / 3 + 1 + 1 + 1) / 6
    assert bcubed == pytest.approx(2 * precision * recall / (precision + recall))


def test_made_up_vectors_are_spread_as_they_say():
    vectors = crowd(4000)
    assert vectors.shape == (4000, 128)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert 0.88 < np.linalg.norm(vectors.mean(axis=0)) < 0.95


def test_speed_is_measured_on_all_rows():
    measured = speed(2000, dim=32, k=8)
    assert measured.rows == 2000
    assert measured.recall == 1
    assert 1 < measured.groups < 2000


@pytest.mark.long
@pytest.mark.timeout(600)
def test_people_are_told_apart_and_labels_are_cleaned(photographs):
    photos, points = embed(photographs), grouping_points("dlib")
    assert min(grouped(photos, points)) >= MIN_F
    for share, (precision, kept) in SWAPPED.items():
        clean = cleaned(photos, points, share)
        assert clean.precision >= precision
        assert clean.kept >= kept


@pytest.mark.long
@pytest.mark.timeout(600)
def test_pairs_are_of_one_person_and_not_one_photo(photographs):
    seen = look(photographs)
    for use_labels in (False, True):
        measured, strata = paired(seen, PairSettings(), use_labels=use_labels)
        assert {each.kind for each in measured} == {"pair", "triplet", "group"}
        assert min(each.same for each in measured) >= MIN_SAME
        assert min(each.least_pdq for each in measured) > MAX_PDQ
        assert len(strata) >= 10
