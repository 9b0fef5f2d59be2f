"""What can be asked of any adapter on a base when it draws, beside what it learnt."""

from dataclasses import replace

import pytest
import torch

from infra.errors import BadValue
from tests.training.methods import adapters
from tests.training.methods.adapters import VARIANTS, condition, make, moved
from tests.training.methods.test_instant_id import made as made_instant_id
from tests.training.methods.test_research_adapters import asked, made
from training.method import Sampling

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
