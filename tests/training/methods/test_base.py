from dataclasses import replace

import pytest
import torch

from infra.errors import BadWeights
from training.build import build
from training.method import Condition
from training.recipes import DataSettings, MethodSettings, lfw64


@pytest.fixture
def recipe(features):
    return replace(
        lfw64(),
        data=DataSettings(path=str(features), heldout_share=0.0),
        method=MethodSettings(kind="base", width=32, identity_norm="standard"),
        batch=8,
        microbatch=8,
    )


def generate(method, identity, **how):
    rng = torch.Generator().manual_seed(3)
    return method.generate(Condition(identity), rng, steps=4, **how)


def test_pictures_have_their_size_and_range(recipe):
    pictures = generate(build(recipe).method, torch.randn(2, 8))
    assert pictures.shape == (2, 3, 32, 32)
    assert 0 <= float(pictures.min()) <= float(pictures.max()) <= 1


def test_what_is_saved_draws_the_same_pictures(recipe, tmp_path):
    method, other = build(recipe).method, build(replace(recipe, seed=7)).method
    identity = torch.randn(2, 8)
    assert not generate(other, identity).equal(generate(method, identity))
    saved = tmp_path / "saved"
    saved.mkdir()
    method.save(saved)
    other.load(saved)
    assert generate(other, identity).equal(generate(method, identity))
    assert {path.suffix for path in saved.iterdir()} == {".safetensors", ".json"}


def test_weights_of_another_size_are_refused(recipe, tmp_path):
    build(recipe).method.save(tmp_path)
    larger = replace(recipe, method=replace(recipe.method, width=64))
    with pytest.raises(BadWeights, match="another size"):
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


def test_building_a_method_leaves_the_global_generator_alone(recipe):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    build(recipe)
    assert torch.rand(1).equal(expected)
