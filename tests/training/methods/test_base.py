from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from infra.errors import BadValue, BadWeights
from training.build import build, load_export
from training.method import Condition, Sampling
from training.recipes import lfw64, lfw64_base
from training.settings import DataSettings, LossSettings, MethodSettings


@pytest.fixture
def recipe(features):
    return replace(
        lfw64(),
        data=DataSettings(path=str(features), heldout_share=0.0),
        method=MethodSettings(kind="base", width=32, identity_norm="standard"),
        batch=8,
        microbatch=8,
    )


@pytest.fixture
def faces_only(recipe):
    return replace(recipe, method=replace(recipe.method, condition="none"))


def generate(method, identity, seed=3, **how):
    rng = torch.Generator().manual_seed(seed)
    return method.generate(Condition(identity), rng, Sampling(steps=4, **how))


def test_pictures_have_their_size_and_range(recipe):
    pictures = generate(build(recipe).method, torch.randn(2, 8))
    assert pictures.shape == (2, 3, 32, 32)
    assert 0 <= float(pictures.min()) <= float(pictures.max()) <= 1


def test_what_is_saved_draws_the_same_pictures(recipe, tmp_path):
    method, other = build(recipe).method, build(replace(recipe, seed=7)).method
    identity = torch.randn(2, 8)
    assert not generate(other, identity).equal(generate(method, identity))
    method.save(tmp_path / "saved")
    other.load(tmp_path / "saved")
    assert generate(other, identity).equal(generate(method, identity))
    assert generate(load_export(tmp_path / "saved"), identity).equal(generate(method, identity))


def test_diffusers_reads_the_network(recipe, tmp_path):
    method = build(recipe).method
    method.save(tmp_path)
    unet = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    assert all(map(torch.equal, unet.state_dict().values(), method.unet.state_dict().values()))


def test_weights_of_another_size_are_refused(recipe, tmp_path):
    build(recipe).method.save(tmp_path)
    larger = replace(recipe, method=replace(recipe.method, width=64))
    with pytest.raises(BadWeights, match=r"method\.width 32, and the model here has 64"):
        build(larger).method.load(tmp_path)


def test_a_dropped_identity_changes_nothing_whoever_it_is(recipe):
    job = build(replace(recipe, drop=replace(recipe.drop, identity=1.0)))
    batch = next(job.batches.micro(0))
    someone = job.method(batch)["loss"]
    other = job.method(batch | {"identity": torch.randn(8, 8)})["loss"]
    assert someone.equal(other)


def test_an_identity_that_is_there_changes_the_prediction(recipe):
    job = build(replace(recipe, drop=replace(recipe.drop, identity=0.0)))
    batch = next(job.batches.micro(0))
    with torch.no_grad():
        job.method.unet.conv_out.weight.normal_()
        someone = job.method(batch)["loss"]
        other = job.method(batch | {"identity": 5 * torch.randn(8, 8)})["loss"]
    assert not someone.equal(other)


def test_a_scale_of_nothing_draws_nobody_in_particular(recipe):
    method = build(recipe).method
    assert generate(method, torch.randn(2, 8), scale=0.0).equal(
        generate(method, torch.randn(2, 8), scale=0.0)
    )


def test_a_model_of_faces_only_knows_nobody(faces_only):
    job = build(faces_only)
    assert not any(name.startswith("tokens.") for name in job.method.trainable())
    batch = next(job.batches.micro(0))
    told = job.method(batch)
    told["loss"].backward()
    assert all(weight.grad is not None for weight in job.method.trainable().values())
    assert told["loss"].equal(job.method(batch | {"identity": torch.randn(8, 8)})["loss"])
    assert generate(job.method, torch.zeros(2, 8)).equal(generate(job.method, torch.ones(2, 8)))


def test_a_model_of_faces_only_cannot_be_asked_for_identity(faces_only):
    with pytest.raises(BadValue, match="nobody is asked for"):
        build(replace(faces_only, losses=LossSettings(identity=1.0)))


def test_the_recipe_of_faces_only_trains_on_the_features_of_lfw64(features):
    small = MethodSettings(kind="base", condition="none", width=32)
    job = build(
        replace(lfw64_base(), data=DataSettings(path=str(features)), method=small, batch=2,
                microbatch=2)
    )  # fmt: skip
    assert job.method(next(job.batches.micro(0)))["loss"].isfinite()


def test_several_faces_of_one_person_are_refused(recipe):
    with pytest.raises(BadValue, match="give one vector per sample"):
        generate(build(recipe).method, torch.randn(2, 3, 8))


def test_building_a_method_leaves_the_global_generator_alone(recipe):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    build(recipe)
    assert torch.rand(1).equal(expected)
