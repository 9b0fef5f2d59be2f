"""What can be asked of any adapter on a base when it draws, beside what it learnt."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from infra.errors import BadValue
from tests.training.methods import adapters
from tests.training.methods import test_attention_adapters as attention
from tests.training.methods import test_research_adapters as research
from tests.training.methods.adapters import (
    SD,
    SDXL,
    VARIANTS,
    WIDTH,
    condition,
    drawn,
    empty,
    make,
    moved,
)
from tests.training.methods.test_instant_id import made as made_instant_id
from tests.training.methods.test_research_adapters import asked, made
from training.method import Sampling
from training.nets.codec import decoded
from training.nets.presets import load_unet
from training.sampler import draw

FACEID = {name: VARIANTS[name] for name in ("faceid with LoRA", "plus", "portrait")}


def painted(method, ask=None, **how):
    return adapters.painted(method, ask, steps=1, **how)


def faceid(folder, variant="plus"):
    return moved(make(folder, VARIANTS[variant])).eval()


@pytest.mark.parametrize("option", ["rescale", "adain_mean"])
@pytest.mark.parametrize("variant", FACEID)
def test_a_merge_changes_the_picture_and_leaves_nothing_behind(tmp_path, variant, option):
    method = faceid(tmp_path, variant)
    before, kept = painted(method), repr(method.unet)
    names = list(dict(method.unet.named_parameters()))
    assert not torch.equal(painted(method, **{option: True}), before)
    assert torch.equal(painted(method), before)
    assert repr(method.unet) == kept
    assert list(dict(method.unet.named_parameters())) == names


@pytest.mark.parametrize("option", ["rescale", "adain_mean"])
def test_instant_id_can_be_merged_too(tmp_path, option):
    method = moved(made_instant_id(tmp_path)).eval()
    assert not torch.equal(painted(method, **{option: True}), painted(method))


def test_a_merged_adapter_at_0_is_its_base(tmp_path):
    method = faceid(tmp_path)
    base = painted(method, scale=0.0)
    assert torch.equal(painted(method, scale=0.0, rescale=True, adain_mean=True), base)


def test_where_identity_has_no_keys_and_values_a_merge_is_refused(tmp_path):
    method = made(tmp_path, "face_chain_fact")
    with pytest.raises(BadValue, match=r"sampling\.rescale.*leave it out"):
        painted(method, asked(method), rescale=True)


# Restoring attributes.


def test_restored_everywhere_and_wholly_nobody_is_drawn(tmp_path):
    method = faceid(tmp_path)
    all_delayed = painted(method, start_step=1)
    assert torch.allclose(painted(method, restore=1.0), all_delayed, atol=1e-5)
    half = painted(method, restore=0.5)
    assert not torch.allclose(half, all_delayed, atol=1e-4)
    assert not torch.allclose(half, painted(method), atol=1e-4)


def test_restoring_nothing_changes_nothing(tmp_path):
    method = faceid(tmp_path)
    nowhere = replace(condition(method), attributes=torch.zeros(2, 16, 16))
    assert torch.allclose(painted(method, nowhere, restore=1.0), painted(method), atol=1e-5)
    everywhere = replace(condition(method), attributes=torch.ones(2, 16, 16))
    assert torch.equal(painted(method, everywhere), painted(method))


def test_latents_are_restored_where_it_is_asked_and_the_rest_is_the_person_s(tmp_path):
    """In one step a latent depends on the predictions of its place alone."""
    method = faceid(tmp_path)
    mask = torch.zeros(2, 16, 16)
    mask[:, :8] = 1

    def latents(ask, **how):
        kept = []
        how = Sampling(steps=1, **how)
        rng = torch.Generator().manual_seed(7)
        method.generate(ask, rng, how, callback=lambda _, z: kept.append(z.clone()) or False)
        return kept[0]

    person, nobody = latents(condition(method)), latents(condition(method), start_step=1)
    mixed = latents(replace(condition(method), attributes=mask), restore=1.0)
    torch.testing.assert_close(mixed[:, :, :8], nobody[:, :, :8], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mixed[:, :, 8:], person[:, :, 8:], rtol=1e-4, atol=1e-4)
    assert (person - nobody).abs().max() > 1e-2


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(BadValue, match=r"sampling\.restore"):
        Sampling(restore=share)


# A series.

SERIES = {
    **{name: (partial(faceid, variant=name), condition) for name in FACEID},
    "instant_id": (made_instant_id, condition),
    **{name: (partial(made, name=name), asked) for name in research.KINDS},
    **{kind: (partial(attention.made, kind=kind), attention.asked) for kind in attention.SETTINGS},
}
"""How to make each, and what to ask it for."""


def in_series(ask):
    """Ask for the same in a series, whose subject has three tokens."""
    count = len(ask.identity)
    return replace(ask, series_text=drawn(1, 3, WIDTH, seed=8).expand(count, -1, -1))


@pytest.mark.parametrize("name", SERIES)
def test_any_adapter_draws_a_series_and_nothing_is_left_behind(tmp_path, name):
    make_it, ask_it = SERIES[name]
    method = moved(make_it(tmp_path)).eval()
    ask = ask_it(method, count=1)
    before, kept = painted(method, ask), repr(method.unet)
    names = list(dict(method.unet.named_parameters()))
    assert not torch.equal(painted(method, in_series(ask)), before)
    assert torch.equal(painted(method, ask), before)
    assert repr(method.unet) == kept
    assert list(dict(method.unet.named_parameters())) == names


@torch.no_grad()
@pytest.mark.parametrize("base", [SD, SDXL])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_series_is_the_prompt_s_branch_told_more_and_the_negative_branch_as_it_is(
    tmp_path, base, scale
):
    """Branch by branch in calls of their own; at scale 0 by the base without an adapter."""
    method = moved(make(tmp_path, VARIANTS["faceid with LoRA"], base=base)).eval()
    ask, bare = in_series(condition(method)), load_unet(base)
    nothing = {name: states.expand(2, *states.shape) for name, states in empty().items()}
    longer = torch.cat([ask.text, ask.series_text], dim=1)

    def by_adapter(z_t, t, faces, text, pooled):
        given = method.conditions.whole(faces, image=None, text=text, pooled=pooled)
        with method.strength(scale):
            return method._predict(z_t, t.expand(2), given, None)

    def by_base(z_t, t, _, text, pooled):
        size = torch.tensor([[64, 64, 0, 0, 64, 64]] * 2)
        added = {} if base == SD else {"text_embeds": pooled, "time_ids": size}
        return bare(z_t, t, text, added_cond_kwargs=added).sample

    def predict(z_t, t, _):
        one = by_adapter if scale else by_base
        without = one(z_t, t, torch.zeros_like(ask.identity), nothing["text"], nothing["pooled"])
        return without, one(z_t, t, ask.identity, longer, ask.pooled)

    noise, how = drawn(2, 4, 16, 16, seed=7), Sampling(steps=3, scale=scale)
    expected = decoded(method.codec, draw(method.schedule, noise, predict, ask, how, None))
    torch.testing.assert_close(
        adapters.painted(method, ask, scale=scale), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("how", [{"restore": 0.5}, {"start_step": 1}])
def test_nobody_is_drawn_in_a_series_too(tmp_path, how):
    method = faceid(tmp_path)
    ask = condition(method)
    assert not torch.equal(painted(method, in_series(ask), **how), painted(method, ask, **how))


@pytest.mark.parametrize("option", ["rescale", "adain_mean"])
def test_a_series_can_be_merged_too(tmp_path, option):
    method = faceid(tmp_path)
    ask = in_series(condition(method))
    merged = painted(method, ask, **{option: True})
    assert not torch.equal(merged, painted(method, ask))
    assert not torch.equal(merged, painted(method, **{option: True}))
    base = painted(method, ask, scale=0.0)
    assert torch.equal(painted(method, ask, scale=0.0, **{option: True}), base)


def test_a_series_without_the_text_of_its_scenes_is_refused(tmp_path):
    method = faceid(tmp_path)
    with pytest.raises(BadValue, match=r"condition\.text.*of its scenes"):
        painted(method, replace(in_series(condition(method)), text=None))
