import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from infra.errors import BadValue, BadWeights
from training.nets.presets import count_parameters, load_unet, load_vae


@pytest.mark.parametrize(
    ("preset", "millions"), [("tiny-sd", 1.1), ("sd15", 859.5), ("sdxl", 2567.5)]
)
def test_presets_have_the_published_number_of_parameters(preset, millions):
    assert round(count_parameters(f"random:{preset}") / 1e6, 1) == millions


def test_counting_leaves_no_default_device_behind():
    count_parameters("random:tiny-sd")
    assert torch.zeros(1).device.type == "cpu"


def test_one_seed_draws_one_model_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    one, same, other = (load_unet("random:tiny-sd", seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(one.conv_in.weight, same.conv_in.weight)
    assert not torch.equal(one.conv_in.weight, other.conv_in.weight)


def test_the_tiny_codec_turns_latents_of_16_into_pictures_of_64():
    with torch.no_grad():
        assert load_vae("random:tiny-sd").decode(torch.zeros(1, 4, 16, 16)).sample.shape[2:] == (
            64,
            64,
        )


@pytest.mark.parametrize("part", ["", "unet"])
def test_a_folder_is_read_alone_or_inside_a_pipeline(tmp_path, part):
    saved = load_unet("random:tiny-sd", seed=5)
    saved.save_pretrained(tmp_path / part)
    read = load_unet(f"file:{tmp_path}")
    assert torch.equal(saved.conv_in.weight, read.conv_in.weight)
    assert count_parameters(f"file:{tmp_path}") == sum(p.numel() for p in saved.parameters())


def test_a_pickle_is_refused(tmp_path):
    load_unet("random:tiny-sd").save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(BadWeights, match=r"\.bin' .*pickle.*Convert it to safetensors\."):
        load_unet(f"file:{tmp_path}")


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(BadWeights, match="no diffusers folder"):
        load_unet(f"file:{tmp_path}")


def test_broken_safetensors_are_refused(tmp_path):
    load_unet("random:tiny-sd").save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(BadWeights, match="cannot be read"):
        load_unet(f"file:{tmp_path}")


@pytest.mark.parametrize("load", [load_unet, load_vae])
def test_incomplete_weights_are_refused_by_the_name_of_one(tmp_path, load):
    load("random:tiny-sd").save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    held = load_file(path)
    for name in sorted(held)[:20]:
        del held[name]
    save_file(held, path, {"format": "pt"})
    with pytest.raises(BadWeights, match=r"lacks 20 weights of \w+, such as '"):
        load(f"file:{tmp_path}")


@pytest.mark.parametrize(
    ("reference", "cure"),
    [
        ("random:sd16", "Did you mean 'sd15'"),
        ("hub:owner/model", "give 'file:<folder>'"),
        ("sd15", "begin with 'random:' or 'file:'"),
    ],
)
def test_unknown_references_are_refused_with_the_cure(reference, cure):
    for load in (load_unet, load_vae, count_parameters):
        with pytest.raises(BadValue, match=cure):
            load(reference)


def test_the_tiny_unet_is_built_like_stable_diffusion():
    tiny, full = load_unet("random:tiny-sd"), UNet2DConditionModel
    assert isinstance(tiny, full)
    names = list(tiny.attn_processors)
    assert [name.split(".")[-2] for name in names] == ["attn1", "attn2"] * (len(names) // 2)
