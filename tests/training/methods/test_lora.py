import shutil
from dataclasses import replace

import pytest
import torch

from infra.errors import BadValue, BadWeights
from tests.training.methods.adapters import DIM, SD, SDXL, drawn, moved
from tests.training.methods.subjects import (
    FEATURES,
    NOBODY,
    batch,
    carded,
    learnt,
    make,
    painted,
    painted_by,
    pipeline,
)
from training.build import load_export
from training.exports import save_tensors
from training.method import Condition
from training.methods.lora import SubjectLoRA
from training.nets.presets import load_unet
from training.nets.text import load_text_encoder
from training.settings import DropSettings, MethodSettings

LORA = MethodSettings(kind="lora", lora_rank=4)
ASKED = "a photo of a sks person"


def made(folder, method=LORA, **more):
    return make(folder, SubjectLoRA, method, **more)


def saved(home, **more):
    method = moved(made(home / "features", **more), seed=3).eval()
    method.save(home / "export")
    return method


def test_only_the_lora_is_trained_and_all_of_it(tmp_path):
    method = moved(made(tmp_path))
    method(batch())["loss"].backward()
    trained = {name for name, weight in method.named_parameters() if weight.grad is not None}
    assert trained == set(method.trainable())
    assert all(".lora_" in name for name in trained)


@pytest.mark.slow
def test_a_handful_of_samples_is_learnt_by_heart(tmp_path):
    history = learnt(made(tmp_path), batch(), 2e-2)
    assert history[-1] < 0.8 * history[0], history[::5]


def test_a_fresh_lora_is_the_base(tmp_path):
    method, pipe = made(tmp_path).eval(), pipeline()
    assert torch.equal(painted(method), painted(method, scale=0.0))
    assert (painted(method) - painted_by(pipe, ASKED)).abs().max() < 1e-5


@pytest.mark.parametrize("base", [SD, SDXL])
def test_taken_out_it_leaves_the_base_bit_for_bit(tmp_path, base):
    method, plain = moved(made(tmp_path, base=base)), load_unet(base)
    unet = method.eject()
    assert repr(unet) == repr(plain)
    assert all(torch.equal(w, plain.state_dict()[name]) for name, w in unet.state_dict().items())


def test_turned_down_it_is_the_base_bit_for_bit(tmp_path):
    fresh, other = made(tmp_path / "a").eval(), moved(made(tmp_path / "b")).eval()
    assert torch.equal(painted(other, scale=0.0), painted(fresh))
    assert not torch.equal(painted(other), painted(fresh))
    assert torch.equal(painted(other, start_step=3), painted(fresh))
    half = painted(other, scale=0.5)
    assert not torch.equal(half, painted(other))
    assert torch.equal(painted(other, scale=0.5), half), "a call leaves nothing behind"


def test_each_sample_has_the_prompt_of_its_kind_and_no_caption(tmp_path):
    method, given = made(tmp_path), batch(4)
    words = method._words(given)["text"]
    told, _ = load_text_encoder(SD).encode([ASKED, "a photo of a person"])
    assert torch.equal(words, told[[0, 1, 0, 1]])
    losses = [method(given | more)["loss"].item() for more in ({}, {"text": given["text"] + 1})]
    assert losses[0] == losses[1]
    del given["is_prior"]
    assert torch.equal(method._words(given)["text"], told[[0, 0, 0, 0]])


def test_who_is_drawn_is_in_the_weights_and_what_is_in_the_text(tmp_path):
    method = moved(made(tmp_path)).eval()
    somebody = Condition(drawn(2, DIM, seed=2))
    assert torch.equal(painted(method, somebody), painted(method))
    text, _ = load_text_encoder(SD).encode(["a statue of a sks person"] * 2)
    assert not torch.equal(painted(method, replace(NOBODY, text=text.clone())), painted(method))


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"features": replace(FEATURES, text_encoder="")}, "prepare them with a text encoder"),
        ({"method": MethodSettings(kind="lora")}, "lora_rank cannot be 0: give 1 or more"),
        ({"drop": DropSettings()}, "set drop.identity and drop.both to 0"),
        ({"method": replace(LORA, prompt="many words " * 20 + "{}")}, "longer than 77 tokens"),
    ],
)
def test_what_cannot_be_tuned_is_refused(tmp_path, more, why):
    with pytest.raises(BadValue, match=why):
        made(tmp_path, **more)


def test_a_prompt_without_a_place_for_its_word_is_refused():
    with pytest.raises(BadValue, match=r"put \{\} where the word is to be"):
        MethodSettings(kind="lora", prompt="a photo")


# The export, read by diffusers.


def test_diffusers_loads_what_is_saved_and_paints_the_same(tmp_path):
    method, pipe = saved(tmp_path), pipeline()
    plain = painted_by(pipe, ASKED)
    pipe.load_lora_weights(tmp_path / "export", weight_name="pytorch_lora_weights.safetensors")
    assert (painted(method) - painted_by(pipe, ASKED)).abs().max() < 1e-5
    assert (painted(method) - plain).abs().max() > 1e-3


@torch.no_grad()
def test_sdxl_s_pipeline_loads_it_too_and_predicts_the_same(tmp_path):
    method, pipe = saved(tmp_path, base=SDXL), pipeline(SDXL)
    pipe.load_lora_weights(tmp_path / "export", weight_name="pytorch_lora_weights.safetensors")
    told = {"text_embeds": drawn(1, 32), "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]])}
    asked = drawn(1, 4, 8, 8), torch.tensor([500]), drawn(1, 77, 32)
    ours, theirs = (
        unet(*asked, added_cond_kwargs=told).sample for unet in (method.unet, pipe.unet)
    )
    assert (ours - theirs).abs().max() < 1e-5


def test_an_export_and_its_base_paint_what_was_saved(tmp_path):
    method = saved(tmp_path)
    shutil.rmtree(tmp_path / "features")
    again = load_export(tmp_path / "export")
    assert torch.equal(painted(again), painted(method))


def test_prompts_of_another_make_are_refused(tmp_path):
    save_tensors(tmp_path / "prompts.safetensors", {"text": torch.zeros(1)})
    with pytest.raises(BadWeights, match=r"prompts\.safetensors.*holds \['text'\]"):
        made(tmp_path)


def test_weights_of_another_rank_are_refused(tmp_path):
    saved(tmp_path)
    other = made(tmp_path / "other", replace(LORA, lora_rank=2))
    with pytest.raises(BadWeights, match=r"method\.lora_rank 4"):
        other.load(tmp_path / "export")


def test_the_model_card_loads_it_as_it_says(tmp_path):
    method = saved(tmp_path)
    told = carded(tmp_path / "export", pipe=pipeline())
    assert told["pictures"].shape == (1, 3, 64, 64)
    assert (painted(method) - painted_by(told["pipe"], ASKED)).abs().max() < 1e-5
