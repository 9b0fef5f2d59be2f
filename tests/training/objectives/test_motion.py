"""The loss that weighs the error by motion."""

import pytest
import torch

from infra.errors import BadValue
from tests.training.objectives.cases import bare, step
from training.objectives.motion import motion

# One sample of two channels, two frames of 1 x 2.
PRED = torch.tensor([[[[[1.0, 2.0]], [[0.0, 3.0]]], [[[1.0, 0.0]], [[2.0, 1.0]]]]])
MAP = torch.tensor([[[[1.0, 0.5]], [[0.0, 0.2]]]])


def lost(maps, pred=PRED, **more):
    given = step(pred, batch={"motion": maps}, **more)
    return motion(bare(motion=1.0), given), given.record


def test_it_is_the_mean_of_the_squares_each_by_its_place_s_motion():
    found, record = lost(MAP)
    # Squares over the channels: 1 and 2, then 2 and 5.
    assert found.item() == pytest.approx((1 * 1 + 0.5 * 2 + 0 * 2 + 0.2 * 5) / 4)
    assert record["still"].item() == 0


def test_beside_mse_it_is_one_error_that_weighs_1_and_as_much_more():
    found, _ = lost(MAP)
    together = ((1 + MAP[:, None]) * PRED.square()).mean()
    assert (PRED.square().mean() + found).item() == pytest.approx(together.item())


def test_of_a_clip_in_which_nobody_moves_it_is_nothing_and_the_clip_is_counted():
    pred = PRED.repeat(2, 1, 1, 1, 1).requires_grad_()
    found, record = lost(torch.cat([MAP, torch.zeros_like(MAP)]), pred)
    found.backward()
    assert record["still"].item() == 0.5
    assert pred.grad[0].any()
    assert not pred.grad[1].any()


def test_samples_are_weighed_as_elsewhere():
    given = step(PRED.repeat(2, 1, 1, 1, 1), batch={"motion": MAP.repeat(2, 1, 1, 1)})
    given.weight[1] = 0.0
    whole, _ = lost(MAP)
    assert motion(bare(motion=1.0), given).item() == pytest.approx(whole.item() / 2)


def test_half_precision_is_computed_in_float32():
    pred = torch.full((1, 1, 1, 2, 2), 300.0, dtype=torch.float16)
    found, _ = lost(torch.ones(1, 1, 2, 2, dtype=torch.float16), pred)
    assert (found.dtype, found.item()) == (torch.float32, 90_000.0)


def test_videos_without_flow_are_refused_with_the_cure():
    with pytest.raises(BadValue, match=r"losses\.motion cannot be 0\.5.*prepare the videos with"):
        motion(bare(motion=0.5), step(PRED))
