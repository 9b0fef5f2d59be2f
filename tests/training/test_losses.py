import pytest
import torch

from training.losses import masked, mse, weighted_mean


def test_mse_is_the_mean_square_of_each_sample():
    pred = torch.tensor([[[[1.0, 2.0]]], [[[0.0, 5.0]]]])
    target = torch.tensor([[[[0.0, 0.0]]], [[[3.0, 1.0]]]])
    assert mse(pred, target).tolist() == [2.5, 12.5]


def test_mse_of_half_precision_is_computed_in_float32():
    # 300² = 90,000 is beyond the largest float16, 65,504.
    pred = torch.full((1, 1, 2, 2), 300.0, dtype=torch.float16)
    found = mse(pred, torch.zeros_like(pred))
    assert (found.dtype, found.tolist()) == (torch.float32, [90_000.0])


def test_masked_looks_inside_the_mask_only_and_divides_by_its_area():
    pred = torch.tensor([[[[1.0, 2.0], [3.0, 100.0]], [[3.0, 0.0], [5.0, 100.0]]]])
    mask = torch.tensor([[[1.0, 0.5], [0.0, 0.0]]])
    # Over the channels: (1 + 9) / 2 = 5 and (4 + 0) / 2 = 2; then (1 * 5 + 0.5 * 2) / 1.5.
    assert masked(pred, torch.zeros_like(pred), mask).tolist() == [4.0]


def test_masked_by_ones_is_mse():
    pred, target = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    ones = torch.ones(3, 5, 6, dtype=torch.bool)
    torch.testing.assert_close(masked(pred, target, ones), mse(pred, target))


def test_an_empty_mask_gives_zero_and_no_gradient_beside_a_full_one():
    pred = torch.full((2, 1, 2, 2), 3.0, requires_grad=True)
    mask = torch.stack([torch.zeros(2, 2), torch.ones(2, 2)])
    found = masked(pred, torch.zeros(2, 1, 2, 2), mask)
    found.sum().backward()
    assert found.tolist() == [0.0, 9.0]
    assert pred.grad[0].tolist() == [[[0.0, 0.0], [0.0, 0.0]]]
    assert pred.grad[1].tolist() == [[[1.5, 1.5], [1.5, 1.5]]]  # 2 * 3 / 4


def test_weighted_mean_divides_by_samples():
    per_sample, weight = torch.tensor([1.0, 3.0]), torch.tensor([4.0, 0.0])
    assert weighted_mean(per_sample, weight).item() == 2.0


def test_weighted_means_of_microbatches_average_to_that_of_the_batch():
    per_sample, weight = torch.rand(2, 8, generator=torch.Generator().manual_seed(0))
    halves = [weighted_mean(per_sample[half], weight[half]) for half in (slice(4), slice(4, 8))]
    assert sum(halves) / 2 == pytest.approx(weighted_mean(per_sample, weight))
