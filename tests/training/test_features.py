import numpy as np
import pytest

from infra.errors import UnreadableSource
from training.features import Features, Prepared


def test_a_feature_is_read_by_sample_whatever_its_shard(features):
    prepared = Prepared(features)
    rows = prepared.read("identity", np.array([3, 0, 10]))
    again = prepared.read("identity", np.array([0]))
    assert rows.shape == (3, 8)
    assert rows[1].equal(again[0])


def test_a_person_is_wholly_on_one_side(features):
    prepared = Prepared(features)
    train, heldout = prepared.split(0.5)
    assert sorted([*train, *heldout]) == list(range(len(prepared)))
    assert {prepared.people[i] for i in train} & {prepared.people[i] for i in heldout} == set()
    assert len(train) > 0
    assert len(heldout) > 0


def test_without_a_share_nobody_is_held_out(features):
    train, heldout = Prepared(features).split(0.0)
    assert (len(train), len(heldout)) == (24, 0)


def test_a_folder_that_was_not_prepared_is_refused_with_the_cure(tmp_path):
    with pytest.raises(UnreadableSource, match="visage prepare"):
        Features.read(tmp_path)
