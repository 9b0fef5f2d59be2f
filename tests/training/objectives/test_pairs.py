"""Losses over pairs: which of two is the better one."""

import math

import pytest
import torch

from infra.errors import BadValue
from tests.training.methods.adapters import VARIANTS, batch, make
from tests.training.objectives.cases import step, tools
from training.loss_settings import LossSettings
from training.objectives.dpo import dpo, ipo

BETA = 10.0
WON, LOST, BASE = 2.0, 1.5, 1.0
"""What the network errs by on winner and loser, and its base on both."""


def case(pred, **more):
    """A step over pairs, and how it is asked: the winner's target is 0, the loser's 1/2."""
    noise, asked = torch.full_like(pred, 0.5), []

    def ask(*, z_t=None, t=None, base=False):
        asked.append((z_t is not None and t is not None, base))
        return (noise if z_t is not None else torch.zeros_like(pred)) + (BASE if base else LOST)

    given = {"loser_latents": torch.ones_like(pred), "noise": noise,
             "time": torch.full((len(pred),), 0.5)}  # fmt: skip
    return step(pred, batch=given, ask=ask, **more), asked


def test_dpo_is_what_the_paper_s_formula_gives_by_hand():
    pred = torch.full((2, 3, 2, 2), WON, requires_grad=True)
    taken, asked = case(pred)
    found = dpo(tools(dpo=1.0, dpo_beta=BETA), taken)
    gap = -BETA / 2 * ((WON**2 - BASE**2) - (LOST**2 - BASE**2))
    assert found.item() == pytest.approx(math.log1p(math.exp(-gap)))
    assert sorted(asked) == [(False, True), (True, False), (True, True)]
    assert taken.record["dpo_gap"].item() == pytest.approx(gap)
    assert taken.record["dpo_accuracy"].item() == 0.0
    found.backward()
    # d/dpred of -log sigmoid(h): -(1 - sigmoid(h)) dh, dh = -beta/2 * 2 pred / 12; of two pairs.
    by_hand = 1 / (1 + math.exp(gap)) * BETA / 2 * 2 * WON / 12 / 2
    torch.testing.assert_close(pred.grad, torch.full_like(pred, by_hand))


def test_ipo_wants_a_gap_of_one_half_and_no_more():
    pred = torch.full((1, 3, 2, 2), 0.9, requires_grad=True)
    found = ipo(tools(ipo=1.0, dpo_beta=BETA), case(pred)[0])
    gap = -BETA / 2 * (0.9**2 - LOST**2)
    assert gap > 0.5
    assert found.item() == pytest.approx((gap - 0.5) ** 2, rel=1e-5)
    found.backward()
    assert (pred.grad < 0).all(), "to descend is to err more on the winner: the gap is too wide"


def test_a_network_that_is_its_base_has_no_preference_yet():
    pred = torch.full((2, 3, 2, 2), LOST)
    taken, _ = case(pred)
    assert dpo(tools(dpo=1.0), taken).item() == pytest.approx(math.log(2))
    assert taken.record["dpo_accuracy"].item() == 0.5


def test_both_losses_together_ask_as_often_as_one():
    taken, asked = case(torch.ones(1, 3, 2, 2))
    made = tools(dpo=1.0, ipo=1.0)
    dpo(made, taken)
    ipo(made, taken)
    assert len(asked) == 3


def test_pairs_of_whom_something_was_dropped_count_nothing():
    pred = torch.full((3, 3, 2, 2), WON, requires_grad=True)
    taken, _ = case(pred, asked=[True, False, True], prompted=torch.tensor([True, True, False]))
    found = dpo(tools(dpo=1.0, dpo_beta=BETA), taken)
    alone = dpo(tools(dpo=1.0, dpo_beta=BETA), case(pred[:1])[0])
    assert found.item() == pytest.approx(alone.item() / 3)
    found.backward()
    assert not pred.grad[1:].any()


def test_a_batch_without_losers_is_refused_with_the_cure():
    taken = step(torch.ones(1, 3, 2, 2))
    with pytest.raises(BadValue, match=r"no `loser_latents`; make preferences\.parquet"):
        dpo(tools(dpo=1.0), taken)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"dpo": 1.0, "dpo_beta": 0.0}, "thousands are usual"),
        ({"dpo_first_stage": 1.5}, "give a share"),
        ({"dpo": -1.0}, "0 or more"),
    ],
)
def test_settings_that_prefer_nothing_are_refused(wrong, why):
    with pytest.raises(BadValue, match=why):
        LossSettings(**wrong)


def test_an_adapter_for_pictures_learns_pairs_with_the_noise_and_time_that_they_share(tmp_path):
    losses = LossSettings(mse=0.0, dpo=1.0, dpo_beta=2000.0)
    method = make(tmp_path, VARIANTS["faceid with LoRA"], losses=losses)
    given = batch() | {"loser_latents": batch(seed=5)["latents"]}
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in method.trainable().values():
            weight += 0.05 * torch.randn(weight.shape, generator=rng)
    told = method._told(given)

    def error(latents):
        noised = method.schedule.noised(latents, given["noise"], given["time"])
        pred = method._predict(noised.z_t, noised.t, told, None)
        return (pred - noised.target).square().mean(dim=(1, 2, 3))

    ours = error(given["latents"]) - error(given["loser_latents"])
    with torch.no_grad(), method.adapter_off():
        theirs = error(given["latents"]) - error(given["loser_latents"])
    by_hand = -torch.log(torch.sigmoid(-1000.0 * (ours - theirs))).mean()
    found = method(given)["loss"]
    torch.testing.assert_close(found, by_hand, rtol=1e-3, atol=1e-3)
    assert found.item() != pytest.approx(math.log(2), abs=1e-3)
    found.backward()
    assert all(weight.grad.any() for weight in method.trainable().values())
