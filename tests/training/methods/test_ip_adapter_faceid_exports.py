"""What is saved draws the same in diffusers, in Visage, and as the model card says."""

import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from infra.errors import BadWeights
from tests.training.methods.adapters import (
    FEATURES,
    SD,
    SDXL,
    VARIANTS,
    batch,
    condition,
    make,
    moved,
    painted,
    painted_by,
    pipeline,
)
from training.build import load_export
from training.settings import LossSettings, MethodSettings, Scale

NAME = "ip-adapter-faceid"


def saved(home, variant="faceid", **more):
    method = moved(make(home / "features", VARIANTS[variant], **more))
    method.save(home / "export")
    return method


def given_to(pipe, folder):
    pipe.load_ip_adapter(
        str(folder), subfolder="", weight_name=f"{NAME}.safetensors", image_encoder_folder=None,
        local_files_only=True,
    )  # fmt: skip
    return pipe


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("base", [SD, SDXL])
def test_diffusers_loads_what_is_saved_and_paints_the_same(tmp_path, variant, base):
    method = saved(tmp_path, variant, base=base)
    theirs = painted_by(given_to(pipeline(base), tmp_path / "export"), method)
    ours = painted(method)
    assert ours.shape == (2, 3, 64, 64)
    assert (ours - theirs).abs().max() < 1e-5
    assert (ours - painted(method, scale=0.0)).abs().max() > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_export_alone_paints_what_was_saved(tmp_path, variant):
    method = saved(tmp_path, variant)
    (tmp_path / "features/empty.safetensors").unlink()
    again = load_export(tmp_path / "export")
    assert not again.training
    assert torch.equal(painted(again), painted(method))
    files = {path.name for path in (tmp_path / "export").iterdir()}
    wanted = {f"{NAME}.safetensors", "config.json", "features.json", "empty.safetensors"}
    lora = {f"{NAME}.lora.safetensors"} if "LoRA" in variant else set()
    assert files == wanted | {"README.md"} | lora


def test_an_export_needs_no_network_that_only_training_needs(tmp_path):
    saved(tmp_path, losses=LossSettings(identity=1.0), scale=Scale(gradient_checkpointing=True))
    again = load_export(tmp_path / "export")
    assert again.objective.identity_loss is None
    assert not again.unet.is_gradient_checkpointing


def test_the_companion_file_is_the_same_lora(tmp_path):
    method = saved(tmp_path, "faceid with LoRA")
    pipe = pipeline()
    pipe.load_lora_weights(
        str(tmp_path / "export"), weight_name=f"{NAME}.lora.safetensors", local_files_only=True
    )
    theirs = painted_by(pipe, method, adapter=False)
    for processor in list(method.unet.attn_processors.values())[1::2]:
        processor.scale = [0.0]
    given, text, times = batch(), condition(method).text, torch.tensor([500, 900])
    with torch.no_grad():
        added = {"image_embeds": [torch.zeros(2, 1, FEATURES.identity_dim)]}
        ours = method.unet(given["latents"], times, text, added_cond_kwargs=added).sample
        lora_only = pipe.unet(given["latents"], times, text).sample
    assert (ours - lora_only).abs().max() < 1e-5
    assert (theirs - painted_by(pipeline(), method, adapter=False)).abs().max() > 1e-3


def test_the_configuration_says_what_the_adapter_was_made_for(tmp_path):
    saved(tmp_path, "faceid with LoRA")
    held = json.loads((tmp_path / "export/config.json").read_text())
    assert held["kind"] == "ip_adapter_faceid"
    assert held["base"] == "random:tiny-sd#0"
    assert held["embedder"] == {
        "name": FEATURES.embedder, "backend": "dlib", "dim": 32, "norm": "unit",
    }  # fmt: skip
    assert held["recipe"]["method"]["lora_rank"] == 4


def test_weights_of_a_like_export_can_be_put_in_and_taken_out(tmp_path):
    method, other = saved(tmp_path / "a"), make(tmp_path / "b", VARIANTS["faceid"])
    before = painted(other)
    fresh = {name: weight.clone() for name, weight in other.trainable().items()}
    other.load(tmp_path / "a/export")
    assert torch.equal(painted(other), painted(method))
    for name, weight in other.trainable().items():
        weight.data = fresh[name]
    assert torch.equal(painted(other), before)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"method": MethodSettings(identity_norm="raw")}, "method.identity_norm 'unit'"),
        ({"base": SDXL}, "base 'random:tiny-sd#0'"),
        ({"features": replace(FEATURES, embedder="other@1")}, "embedder 'dlib@0123456789ab'"),
    ],
)
def test_weights_for_another_network_are_refused(tmp_path, more, why):
    saved(tmp_path)
    with pytest.raises(BadWeights, match=f"{why}, and the model here has"):
        make(tmp_path / "other", **more).read(tmp_path / "export")


def test_the_mean_of_another_corpus_matters_only_where_it_is_used(tmp_path):
    moved_on = replace(FEATURES, identity_mean=(0.2,) * FEATURES.identity_dim)
    saved(tmp_path / "unit")
    make(tmp_path / "a", features=moved_on).load(tmp_path / "unit/export")
    standard = MethodSettings(identity_norm="standard")
    make(tmp_path / "b", standard).save(tmp_path / "standard")
    with pytest.raises(BadWeights, match="identity_mean"):
        make(tmp_path / "c", standard, features=moved_on).load(tmp_path / "standard")


def test_a_base_that_was_exchanged_is_refused(tmp_path):
    unet = pipeline().unet
    unet.save_pretrained(tmp_path / "base")
    saved(tmp_path, base=f"file:{tmp_path}/base")
    load_export(tmp_path / "export")
    with torch.no_grad():
        unet.conv_in.weight += 1
    unet.save_pretrained(tmp_path / "base")
    with pytest.raises(BadWeights, match="is of an export with base '"):
        load_export(tmp_path / "export")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_card_loads_the_adapter_as_it_says(tmp_path, variant):
    method = saved(tmp_path, variant)
    card = (tmp_path / "export/README.md").read_text()
    asked = condition(method, count=1)
    known = method.conditions.whole(asked.identity, image=asked.image, text=None, pooled=None)
    held = load_file(tmp_path / "export/empty.safetensors")
    image = None if asked.image is None else asked.image
    told = {
        "folder": str(tmp_path / "export"),
        "pipe": pipeline(),
        "vectors": known.faces[0, :, : FEATURES.identity_dim],
        "identity": asked.identity,
        "image": image,
        "image_nobody": held.get("image", torch.zeros(0))[None],
    }
    for code in re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL):
        exec(code, told)  # the card's own code
    assert told["pictures"].shape == (1, 3, 64, 64)
    pictures = told["pipe"](
        prompt_embeds=asked.text,
        negative_prompt_embeds=method.conditions.empty_text[None],
        latents=torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(7)),
        num_inference_steps=3, guidance_scale=2.0, output_type="pt",
        ip_adapter_image_embeds=told["faces"],
    ).images  # fmt: skip
    assert (pictures - painted(method, asked)).abs().max() < 1e-5
