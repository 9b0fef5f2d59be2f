"""Prompts become the states that diffusers' own pipelines make of them."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from infra.errors import BadValue, BadWeights
from training.nets.clip_presets import TEXTS
from training.nets.presets import load_unet, load_vae
from training.nets.text import TextEncoder, load_text_encoder

PROMPTS = ["", "a person", "a person, smiling"]


def saved_pipeline(encoder, folder):
    """Save the parts of an encoder as a pipeline does; return the folder."""
    for tower, number in zip(encoder._towers, ("", "_2"), strict=False):
        tower.model.save_pretrained(folder / f"text_encoder{number}")
        tower.tokenizer.save_pretrained(folder / f"tokenizer{number}")
    return folder


@pytest.mark.parametrize(("preset", "pooled_dim"), [("tiny-sd", 0), ("tiny-sdxl", 32)])
def test_a_prompt_has_one_encoding_and_another_prompt_another(preset, pooled_dim):
    encoder, again = (load_text_encoder(f"random:{preset}") for _ in range(2))
    states, pooled = encoder.encode(PROMPTS)
    assert states.shape == (3, 77, 32) == (3, encoder.tokens, encoder.width)
    assert encoder.pooled_dim == pooled_dim
    assert states.equal(again.encode(PROMPTS)[0])
    assert not states[1].equal(states[2])
    assert not states.equal(load_text_encoder(f"random:{preset}", seed=1).encode(PROMPTS)[0])
    if pooled_dim:
        assert pooled.shape == (3, 32)
        assert not pooled[0].equal(pooled[1])
    else:
        assert pooled is None


def test_a_prompt_is_encoded_alone_as_in_company():
    encoder = load_text_encoder("random:tiny-sdxl")
    together = encoder.encode(PROMPTS)
    for number, prompt in enumerate(PROMPTS):
        alone = encoder.encode([prompt])
        for one, all_ in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_[number], atol=1e-5, rtol=0)


def test_stable_diffusion_reads_the_same_states():
    encoder = load_text_encoder("random:tiny-sd")
    tower = encoder._towers[0]
    pipeline = StableDiffusionPipeline(
        vae=load_vae("random:tiny-sd"), unet=load_unet("random:tiny-sd"), scheduler=None,
        text_encoder=tower.model, tokenizer=tower.tokenizer, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    theirs, _ = pipeline.encode_prompt(PROMPTS, "cpu", 1, do_classifier_free_guidance=False)
    assert encoder.encode(PROMPTS)[0].equal(theirs)


def test_sdxl_reads_the_same_states_and_pooled_vectors():
    encoder = load_text_encoder("random:tiny-sdxl")
    first, second = encoder._towers
    pipeline = StableDiffusionXLPipeline(
        vae=load_vae("random:tiny-sdxl"), unet=load_unet("random:tiny-sdxl"), scheduler=None,
        text_encoder=first.model, tokenizer=first.tokenizer,
        text_encoder_2=second.model, tokenizer_2=second.tokenizer,
    )  # fmt: skip
    theirs = pipeline.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=False)
    states, pooled = encoder.encode(PROMPTS)
    assert states.equal(theirs[0])
    assert pooled.equal(theirs[2])


def test_what_is_added_to_an_overlong_prompt_is_lost_and_that_is_told():
    encoder = load_text_encoder("random:tiny-sd")
    fits, cut, longer = "a" * 75, "a" * 76, "a" * 75 + "bcd"
    assert encoder.overlong(["", fits, cut, longer]) == [False, False, True, True]
    states, _ = encoder.encode([fits, cut])
    assert states[0, :75].equal(states[1, :75])


def test_letters_are_read_without_case_and_any_script_has_tokens():
    encoder = load_text_encoder("random:tiny-sd")
    states, _ = encoder.encode(["Ann", "ann", "Ånn", "安"])
    assert states[0].equal(states[1])
    assert not states[0].equal(states[2])
    assert torch.isfinite(states).all()


@pytest.mark.parametrize("preset", ["tiny-sd", "tiny-sdxl"])
def test_a_saved_pipeline_is_read_as_it_was(tmp_path, preset):
    made = load_text_encoder(f"random:{preset}", seed=4)
    read = load_text_encoder(f"file:{saved_pipeline(made, tmp_path)}")
    assert (read.width, read.tokens, read.pooled_dim) == (32, 77, made.pooled_dim)
    for ours, theirs in zip(made.encode(PROMPTS), read.encode(PROMPTS), strict=True):
        assert (ours is None and theirs is None) or ours.equal(theirs)


def test_keys_as_older_libraries_wrote_them_are_read(tmp_path):
    made = load_text_encoder("random:tiny-sd", seed=4)
    weights = saved_pipeline(made, tmp_path) / "text_encoder/model.safetensors"
    held = {
        f"text_model.{key.removeprefix('text_model.')}": t for key, t in load_file(weights).items()
    }
    save_file(held, weights, {"format": "pt"})
    assert load_text_encoder(f"file:{tmp_path}").encode(PROMPTS)[0].equal(made.encode(PROMPTS)[0])


def without(path):
    path.unlink()


def lacking(path):
    held = load_file(path)
    del held[next(key for key in held if key.endswith("final_layer_norm.weight"))]
    save_file(held, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("harm", "name", "why"),
    [
        (without, "tokenizer/tokenizer.json", "holds no vocabulary"),
        (without, "text_encoder/model.safetensors", "no diffusers folder"),
        (lacking, "text_encoder/model.safetensors", "lacks 1 weights of CLIPTextModel"),
        (lambda p: p.write_bytes(b"\xff" * 64), "text_encoder/model.safetensors", "cannot be read"),
        (lambda p: p.rename(p.with_suffix(".bin")), "text_encoder/model.safetensors", "a pickle"),
        (lambda p: p.write_text('{"model_type": "bert"}'), "text_encoder/config.json", "'bert'"),
    ],
)
def test_a_harmed_pipeline_is_refused_with_what_is_wrong(tmp_path, harm, name, why):
    saved_pipeline(load_text_encoder("random:tiny-sd"), tmp_path)
    harm(tmp_path / name)
    with pytest.raises(BadWeights, match=why):
        load_text_encoder(f"file:{tmp_path}")


def test_other_references_are_refused_with_the_cure(tmp_path):
    with pytest.raises(BadWeights, match="text_encoder/ and tokenizer/"):
        load_text_encoder(f"file:{tmp_path}")
    with pytest.raises(BadValue, match="Did you mean 'sdxl'"):
        load_text_encoder("random:sdxxl")
    with pytest.raises(BadValue, match="begin with"):
        load_text_encoder("sd15")


@pytest.mark.parametrize(("preset", "millions"), [("sd15", [123.06]), ("sdxl", [123.06, 694.66])])
def test_presets_have_the_published_sizes(preset, millions):
    with torch.device("meta"):
        models = [
            (CLIPTextModelWithProjection if number else CLIPTextModel)(CLIPTextConfig(**settings))
            for number, settings in enumerate(TEXTS[preset])
        ]
    counts = [round(sum(p.numel() for p in m.parameters()) / 1e6, 2) for m in models]
    assert counts == millions


def test_sdxl_is_2048_wide_and_pools_1280():
    """On the meta device: only the shapes are asked for."""
    from training.nets.text import _random

    with torch.device("meta"):
        encoder = TextEncoder(_random(TEXTS["sdxl"]))
    states, pooled = encoder.encode(["a person"])
    assert (encoder.width, encoder.pooled_dim) == (2048, 1280)
    assert states.shape == (1, 77, 2048)
    assert pooled.shape == (1, 1280)


def test_prompts_are_filled_and_cut_while_other_threads_count_words():
    encoder = load_text_encoder("random:tiny-sd")
    ended = threading.Event()

    def count():
        while not ended.is_set():
            assert encoder.overlong(PROMPTS) == [False] * 3

    with ThreadPoolExecutor(3) as pool:
        counting = [pool.submit(count) for _ in range(3)]
        try:
            shapes = {encoder.encode(PROMPTS)[0].shape for _ in range(300)}
        finally:
            ended.set()
        assert [future.result() for future in counting] == [None] * 3
    assert shapes == {(3, 77, 32)}
