"""Losses that look at what the method makes of its conditions, and at an adversary of these."""

import pytest
import torch
from torch import nn

from infra.errors import BadValue
from tests.training.methods.adapters import DIM
from tests.training.objectives.cases import bare, step
from training.objectives.contrastive_disentangle import contrastive_disentangle
from training.objectives.decorrelate import barlow_twins, decorrelate
from training.objectives.identity_adversary import identity_adversary, reversed_gradient
from training.objectives.step import Gives

PRED = torch.zeros(2, 4, 4, 4)


def disentangled(person, rest, weak=0.0, **more):
    given = step(
        PRED,
        ask=lambda **_: torch.full_like(PRED, weak),
        embed=lambda _: person,
        rest=rest,
        **more,
    )
    return contrastive_disentangle(bare(), given)


def test_disentangling_is_weak_denoising_and_a_tenth_of_the_cosine():
    person = torch.tensor([[[3.0, 0.0]], [[0.0, 1.0]]]).requires_grad_()
    rest = torch.tensor([[[3.0, 4.0]], [[0.0, 2.0]]])
    found = disentangled(person, rest, weak=2.0)
    assert found.item() == pytest.approx(4 + 0.1 * (0.6 + 1.0) / 2)
    found.backward()
    assert person.grad[0, 0].tolist() == pytest.approx([0, 0.1 / 2 * 0.8 / 3])  # turns away


def test_tokens_that_begin_at_0_have_a_bounded_gradient():
    person = torch.zeros(2, 1, 2, requires_grad=True)
    disentangled(person, torch.ones(2, 1, 2)).backward()
    assert 0 < person.grad.abs().max() < 100


def test_tokens_are_averaged_and_a_prompt_is_the_rest_where_nothing_else_is():
    person = torch.tensor([[[4.0, 0.0], [2.0, 0.0]]] * 2)
    text = torch.tensor([[[3.0, 8.0], [3.0, 0.0]]] * 2)
    found = disentangled(person, None, batch={"text": text}, asked=[True, False])
    assert found.item() == pytest.approx(0.1 * 0.6 / 2)


def test_disentangling_from_nothing_is_refused():
    with pytest.raises(BadValue, match=r"contrastive_disentangle .* no `text`"):
        disentangled(torch.ones(2, 1, 2), None)


def test_tokens_and_prompts_of_two_widths_have_no_angle():
    with pytest.raises(BadValue, match=r"contrastive_disentangle .* 3 numbers and the text's 2"):
        disentangled(torch.ones(2, 1, 3), torch.ones(2, 1, 2))


def test_weak_denoising_is_told_identity_alone():
    told = []
    given = step(
        PRED,
        ask=lambda **how: told.append(how) or PRED,
        embed=lambda _: torch.ones(2, 1, 2),
        rest=torch.ones(2, 1, 2),
    )
    contrastive_disentangle(bare(), given)
    assert told == [{"drop": "rest"}]


def test_twins_that_agree_in_independent_numbers_cost_nothing():
    one = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert barlow_twins(one, one).item() == pytest.approx(0, abs=1e-8)


def test_twins_are_compared_by_correlation():
    one = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    redundant = one[:, [0, 0]]  # C = [[1, 1], [1, 1]]
    assert barlow_twins(redundant, redundant).item() == pytest.approx(0.005 * 2 / 2, rel=1e-3)
    # C = 0 on the diagonal, 1 beside it; another scale and mean change nothing.
    assert barlow_twins(one, 5 * one[:, [1, 0]] + 7).item() == pytest.approx(
        (2 + 0.005 * 2) / 2, rel=1e-3
    )


def test_descending_brings_twins_together():
    rng = torch.Generator().manual_seed(0)
    one = torch.randn(8, 2, generator=rng).requires_grad_()
    other = torch.randn(8, 2, generator=rng)
    before = barlow_twins(one, other)
    before.backward()
    assert barlow_twins(one.detach() - 0.5 * one.grad, other) < before.detach()


def test_twins_are_the_two_photographs_of_each_person():
    told = []
    given = step(
        PRED,
        batch={"identity": torch.zeros(2, DIM), "target_identity": torch.ones(2, DIM)},
        embed=lambda batch: told.append(batch["identity"]) or torch.randn(2, 3, 8),
    )
    tools = bare(Gives(embed=8), decorrelate=1.0)
    decorrelate(tools, given).backward()
    assert [each.mean().item() for each in told] == [0.0, 1.0]
    assert all(weight.grad is not None for weight in tools.networks.parameters())


def test_a_single_sample_has_no_correlation_and_says_so():
    given = step(PRED[:1], embed=lambda _: torch.ones(1, 1, 8))
    with pytest.raises(BadValue, match=r"losses\.decorrelate .* microbatch to 2"):
        decorrelate(bare(Gives(embed=8), decorrelate=1.0), given)


def test_reversal_gives_back_the_same_and_turns_the_gradient():
    there = torch.tensor([1.0, 2.0], requires_grad=True)
    back = reversed_gradient(there)
    (back * torch.tensor([3.0, -4.0])).sum().backward()
    assert back.tolist() == [1.0, 2.0]
    assert there.grad.tolist() == [-3.0, 4.0]


def told_of(rest, whose, **more):
    return step(PRED, batch={"target_identity": whose}, rest=rest, **more)


def adversary():
    tools = bare(Gives(rest=8), identity_adversary=1.0)
    tools.networks["identity_adversary"] = nn.Linear(8, DIM, bias=False)
    return tools, tools.networks["identity_adversary"].weight


def test_the_adversary_is_scored_by_its_angle_to_the_standardised_vector():
    tools, weight = adversary()
    with torch.no_grad():
        weight.zero_()[:2, :2] = torch.eye(2)
    whose = torch.full((2, DIM), 0.1)  # the corpus' mean
    whose[:, 0] += 0.5 * 2  # two deviations
    rest = torch.zeros(2, 1, 8)
    rest[0, 0, 0], rest[1, 0, :2] = 5.0, torch.tensor([3.0, 4.0])
    found = identity_adversary(tools, told_of(rest, whose))
    assert found.item() == pytest.approx((0 + 1 - 0.6) / 2)


def test_one_step_makes_the_adversary_better_and_the_rest_harder_to_read():
    tools, weight = adversary()
    rng = torch.Generator().manual_seed(0)
    rest = torch.randn(2, 1, 8, generator=rng).requires_grad_()
    whose = torch.randn(2, DIM, generator=rng)
    before = identity_adversary(tools, told_of(rest, whose))
    before.backward()
    harder = rest.detach() - 0.1 * rest.grad
    with torch.no_grad():
        assert identity_adversary(tools, told_of(harder, whose)) > before
        weight -= 0.1 * weight.grad
        assert identity_adversary(tools, told_of(rest.detach(), whose)) < before


def test_without_tokens_of_the_rest_the_background_is_read_and_the_face_is_not():
    tools = bare(identity_adversary=1.0)
    pred = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.zeros(2, 4, 4)
    mask[:, :2] = 1
    given = step(pred, snr=[9.0, 0.1], batch={"mask": mask, "target_identity": torch.randn(2, DIM)})
    identity_adversary(tools, given).backward()
    assert pred.grad[0, :, :2].abs().sum() == 0
    assert pred.grad[0, :, 2:].abs().sum() > 0
    assert pred.grad[1].abs().sum() == 0  # noise tells nobody
    assert all(weight.grad is not None for weight in tools.networks.parameters())
