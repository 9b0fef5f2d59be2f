"""Losses that look at who the clean picture shows."""

import pytest
import torch

from tests.training.objectives.cases import bare, showing, step
from training.objectives.enhanced_contrast import enhanced_contrast
from training.objectives.identity import identity
from training.objectives.triplet import triplet

ANN, BOB, CAT = (0.0, 0.0), (3.0, 0.0), (0.0, 2.0)


def targets(*people, **more):
    return {"target_identity": torch.tensor(people), **more}


def test_identity_is_the_distance_to_the_target_weighed_by_signal():
    pred = showing((0.0, 2.0), BOB)
    found = identity(bare(), step(pred, snr=[3.0, 9.0], batch=targets(ANN, BOB)))
    assert found.item() == pytest.approx(0.75 * 4 / 2)
    found.backward()
    assert pred.grad[0, 0, 0].tolist() == pytest.approx([0.0, 4 * 0.75 * 4 / 2])  # towards Ann
    assert pred.grad[1].abs().sum() == 0


def test_identity_is_compared_with_the_target_and_not_with_the_reference():
    given = targets(BOB, identity=torch.tensor([ANN]))
    assert identity(bare(), step(showing(BOB), batch=given)).item() == 0


def test_where_nobody_shows_one_is_looked_at_and_counts_nothing():
    pred = showing(BOB, BOB)
    found = identity(bare(), step(pred, snr=[0.1, 0.1], batch=targets(ANN, ANN)))
    found.backward()
    assert found.item() == 0
    assert pred.grad.abs().sum() == 0


def test_triplet_is_own_distance_less_another_s_plus_margin():
    # Painted at (1, 0): to Ann 1, to Bob 4, to Cat 5; the hardest is Bob: 1 - 4 + 5 = 2.
    pred = showing((1.0, 0.0), BOB, CAT)
    found = triplet(
        bare(triplet_margin=5.0), step(pred, asked=[True, False, False],
                                       batch=targets(ANN, BOB, CAT))
    )  # fmt: skip
    assert found.item() == pytest.approx(2 / 3)
    found.backward()
    # d/dx of (x² - (x - 3)²) is 6: to descend is to go to Ann, away from Bob.
    assert pred.grad[0, 0, 0].tolist() == pytest.approx([4 * 6 / 3, 0.0])


def test_triplet_is_0_beyond_the_margin():
    pred = showing(ANN, BOB)
    found = triplet(bare(), step(pred, batch=targets(ANN, BOB)))
    assert found.item() == 0


def test_each_sample_has_the_weight_of_its_own_time():
    """The original took the first sample's time for all."""
    one, two = (
        triplet(
            bare(triplet_margin=10.0),
            step(showing(ANN, BOB), t=t, asked=asked, batch=targets(ANN, BOB)),
        ).item()
        for t, asked in (([0, 500], [True, False]), ([0, 500], [False, True]))
    )
    assert (one, two) == (pytest.approx(0.5), pytest.approx(0.5 * 0.25))  # hinge 0 - 9 + 10


def test_another_photograph_of_the_same_person_is_no_negative():
    near = (0.5, 0.0)  # at 0.25, and 1 is somebody else
    alone = triplet(bare(), step(showing(ANN, near), batch=targets(ANN, near)))
    assert alone.item() == 0
    with_bob = triplet(
        bare(triplet_margin=10.0),
        step(showing(ANN, near, BOB), asked=[True, False, False], batch=targets(ANN, near, BOB)),
    )
    assert with_bob.item() == pytest.approx((0 - 9 + 10) / 3)


def test_a_negative_of_the_batch_is_preferred():
    given = targets(ANN, BOB, negative_identity=torch.tensor([CAT, CAT]))
    found = triplet(
        bare(triplet_margin=10.0), step(showing(ANN, BOB), asked=[True, False], batch=given)
    )
    assert found.item() == pytest.approx((0 - 4 + 10) / 2)


def test_contrast_is_the_distance_to_who_identity_alone_gives():
    asked_for = []

    def ask(**how):
        asked_for.append(how)
        return showing(CAT, BOB)

    pred = showing(ANN, BOB)
    found = enhanced_contrast(bare(), step(pred, snr=[3.0, 3.0], batch=targets(BOB, BOB), ask=ask))
    assert found.item() == pytest.approx(0.75 * 4 / 2)
    found.backward()
    assert pred.grad[0, 0, 0].tolist() == pytest.approx([0.0, -4 * 0.75 * 4 / 2])  # towards Cat
    assert asked_for == [{"drop": "rest"}]


def test_a_sample_is_decoded_once_for_all_losses():
    given, tools = step(showing(ANN, BOB), batch=targets(ANN, BOB)), bare()
    calls = []
    real = tools.identity.vectors
    tools.identity.vectors = lambda *args: calls.append(1) or real(*args)
    identity(tools, given)
    triplet(tools, given)
    assert len(calls) == 1
