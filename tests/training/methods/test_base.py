from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from infra.errors import BadValue, BadWeights
from tests.training.conftest import noise_features
from training.build import build, load_export
from training.method import Condition, Sampling
from training.recipes import lfw64, lfw64_adapter, lfw64_base
from training.settings import DataSettings, DropSettings, LossSettings, MethodSettings


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


@pytest.fixture
def worded(recipe, tmp_path):
    folder = noise_features(tmp_path / "worded", text=(5, 16))
    return replace(
        recipe,
        data=DataSettings(path=str(folder), heldout_share=0.0),
        method=replace(recipe.method, condition="text"),
        drop=DropSettings(identity=0.0, text=0.1, both=0.0),
    )


def test_a_model_of_words_follows_captions_and_knows_nobody(worded):
    job = build(worded)
    assert job.method.unet.config.cross_attention_dim == 16
    with torch.no_grad():
        job.method.unet.conv_out.weight.normal_()
        batch = dict(next(job.batches.micro(0))) | {"drop": torch.ones(8)}
        told = job.method(batch)["loss"]
        assert told.equal(job.method(batch | {"identity": torch.randn(8, 8)})["loss"])
        assert not told.equal(job.method(batch | {"text": torch.randn(8, 5, 16)})["loss"])


def test_a_caption_that_is_left_out_is_the_empty_prompt(worded):
    method = build(worded).method
    batch = dict(next(build(worded).batches.micro(0)))
    with torch.no_grad():
        method.unet.conv_out.weight.normal_()
        dropped = method(batch | {"drop": torch.zeros(8)})["loss"]
        said = method(batch | {"drop": torch.ones(8), "text": method.empty_text.expand(8, -1, -1)})
    assert dropped.equal(said["loss"])


def test_what_a_model_of_words_saves_draws_the_same_words(worded, tmp_path):
    method = build(worded).method
    method.save(tmp_path / "saved")
    other = load_export(tmp_path / "saved")
    nobody, text = torch.zeros(2, 8), torch.randn(2, 5, 16)

    def drawn(model, words):
        asked = Condition(nobody, text=words)
        return model.generate(asked, torch.Generator().manual_seed(3), Sampling(steps=4))

    assert drawn(other, text).equal(drawn(method, text))
    assert not drawn(method, text).equal(drawn(method, None))
    assert drawn(method, None).equal(drawn(method, method.empty_text.expand(2, -1, -1)))


def test_words_are_wanted_of_features_that_have_none(recipe):
    with pytest.raises(BadValue, match="prepare them with --text-encoder"):
        build(replace(recipe, method=replace(recipe.method, condition="text")))


def test_an_adapter_goes_on_a_base_of_words_and_off_again(worded, tmp_path):
    base = build(worded).method
    base.save(tmp_path / "base")
    on = replace(
        lfw64_adapter(), data=worded.data, batch=8, microbatch=8,
        base=replace(worded.base, weights=f"file:{tmp_path / 'base'}"),
    )  # fmt: skip
    adapter = build(on).method
    asked = Condition(torch.zeros(2, 8), text=torch.randn(2, 5, 16))
    how = Sampling(steps=4, scale=0.0)
    ours = adapter.generate(asked, torch.Generator().manual_seed(3), how)
    theirs = base.generate(asked, torch.Generator().manual_seed(3), how)
    assert ours.equal(theirs)


def test_several_faces_of_one_person_are_refused(recipe):
    with pytest.raises(BadValue, match="give one vector per sample"):
        generate(build(recipe).method, torch.randn(2, 3, 8))


def test_building_a_method_leaves_the_global_generator_alone(recipe):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    build(recipe)
    assert torch.rand(1).equal(expected)
