from dataclasses import replace

import numpy as np
import pytest

from infra.errors import BadValue
from stages.models.backend import BACKENDS
from stages.models.faces import distance
from stages.people.graph import prepare
from stages.people.thresholds import Limits, grouping_points, squared
from tests.stages.people.crowds import POINTS


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_has_distances_in_their_order(backend):
    limits = Limits.of(grouping_points(backend))
    assert 0 < limits.duplicate < limits.pair < limits.group < limits.labelled


def test_an_unknown_backend_is_answered_with_the_nearest_name():
    with pytest.raises(BadValue, match="Did you mean 'dlib'"):
        grouping_points("dlibb")


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_a_distance_is_the_squared_one_between_prepared_vectors(metric):
    vectors = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
    (a, b), _ = prepare(vectors, metric)
    given = float(distance(*vectors, metric))
    assert squared(given, metric) == pytest.approx(float(np.square(a - b).sum()), rel=1e-3)


@pytest.mark.parametrize(
    "change", [{"pair_below": 0.0}, {"group_below": 0.05}, {"duplicate_below": 0.1}]
)
def test_distances_out_of_order_are_refused(change):
    with pytest.raises(BadValue, match=r"give 0 <=? "):
        Limits.of(replace(POINTS, **change))
