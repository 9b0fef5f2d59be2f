"""Losses that look at where the adapter acts."""

import pytest
import torch

from tests.training.objectives.cases import bare, step
from training.objectives.fair import fair
from training.objectives.localise import localise

LEFT = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])  # the face is the left half
PRED = torch.zeros(1, 3, 2, 2)


def attended(shares, **more):
    return step(PRED, batch={"mask": LEFT}, attention=shares, **more)


def test_localise_is_the_mean_outside_less_the_mean_inside():
    shares = torch.tensor([[[0.9, 0.2], [0.5, 0.4]]])[..., None].requires_grad_()
    found = localise(bare(), attended({"layer": shares}))
    assert found.item() == pytest.approx(0.3 - 0.7, abs=1e-4)
    found.backward()
    assert shares.grad[0, :, 0, 0].tolist() == pytest.approx([-0.5, -0.5], abs=1e-4)  # more here
    assert shares.grad[0, :, 1, 0].tolist() == pytest.approx([0.5, 0.5], abs=1e-4)  # less there


def test_localise_is_the_mean_over_layers_of_any_size():
    fine = torch.ones(1, 2, 2, 1)
    coarse = torch.full((1, 1, 1, 1), 0.6)  # half in, half out of the face: as much as outside
    large = torch.zeros(1, 4, 4, 1)
    large[:, :, :2] = 0.5
    found = localise(bare(), attended({"a": fine, "b": coarse, "c": large}))
    assert found.item() == pytest.approx((0 + 0 - 0.5) / 3, abs=1e-4)


def test_each_object_has_its_region_and_one_that_is_nowhere_adds_nothing():
    shares = torch.tensor([[[0.8, 0.1], [0.8, 0.1]]])[..., None].repeat(1, 1, 1, 3)
    regions = torch.stack([LEFT, 1 - LEFT, 0 * LEFT], dim=1)
    found = localise(bare(), attended({"layer": shares}, regions=regions))
    assert found.item() == pytest.approx((-0.7 + 0.7 + 0) / 3, abs=1e-4)


def test_who_was_not_asked_for_is_not_localised():
    shares = torch.rand(1, 2, 2, 1, requires_grad=True)
    found = localise(bare(), attended({"layer": shares}, asked=[False]))
    found.backward()
    assert found.item() == 0
    assert shares.grad.abs().sum() == 0


def added(values, stream, mask=LEFT):
    added = torch.tensor(values).view(1, 4, 1).requires_grad_()
    stream = torch.tensor(stream).view(1, 4, 1).requires_grad_()
    given = step(PRED, batch={"mask": mask}, residuals={"layer": (added, stream)})
    return fair(bare(), given), added, stream


def test_fair_is_what_is_added_outside_the_face_as_a_share_of_what_is_there():
    found, there, stream = added([9.0, 3.0, 9.0, 4.0], [7.0, 6.0, 7.0, 8.0])
    assert found.item() == pytest.approx(5 / 10)
    found.backward()
    assert there.grad.flatten().tolist() == pytest.approx([0, 0.06, 0, 0.08])  # r / |r| / 10
    assert stream.grad is None  # else the share could shrink by growing these


def test_an_adapter_that_adds_nothing_yet_has_a_finite_gradient():
    found, there, _ = added([0.0] * 4, [1.0] * 4)
    found.backward()
    assert found.item() == 0
    assert torch.isfinite(there.grad).all()


def test_a_picture_that_is_all_face_adds_nothing():
    found, _, _ = added([9.0] * 4, [1.0] * 4, mask=torch.ones(1, 2, 2))
    assert found.item() == 0
