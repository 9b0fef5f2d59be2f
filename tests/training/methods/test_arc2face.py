import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from transformers import CLIPTextConfig, CLIPTextModel

from infra.errors import BadValue, BadWeights
from tests.training.methods.adapters import (
    DIM,
    FEATURES,
    SD,
    SDXL,
    batch,
    drawn,
    learnt_by_heart,
    make,
    moved,
    painted,
    pipeline,
)
from training.build import load_export
from training.method import Condition
from training.methods.arc2face import Arc2Face
from training.nets.clip_presets import TEXTS
from training.nets.identity_prompt import IdentityPrompt
from training.nets.presets import load_unet
from training.settings import DropSettings, MethodSettings

UNIT = MethodSettings(kind="arc2face")
ASKED = Condition(drawn(2, DIM, seed=2))


def made(folder, method=UNIT, **more):
    return make(folder, method, kind=Arc2Face, **more)


def test_unet_and_text_encoder_are_trained_whole(tmp_path):
    method = made(tmp_path)
    method(batch())["loss"].backward()
    trained = {name for name, weight in method.named_parameters() if weight.grad is not None}
    assert trained == set(method.trainable())
    assert {name.partition(".")[0] for name in trained} == {"unet", "encoder"}
    assert not any(name.startswith("codec") for name in trained)
    assert sum(p.numel() for p in method.unet.parameters()) == sum(
        w.numel() for n, w in method.trainable().items() if n.startswith("unet.")
    )


def test_eight_samples_are_learnt_by_heart(tmp_path):
    history = learnt_by_heart(made(tmp_path), 5e-3)
    assert history[-1] < 0.7 * history[0], history[::5]


def test_only_who_it_is_counts_neither_how_loud_nor_any_text(tmp_path):
    method, given = made(tmp_path), batch()
    losses = [
        method(given | changed)["loss"].item()
        for changed in (
            {},
            {"identity": 3 * given["identity"]},
            {"text": given["text"] + 1},
            {"identity": -given["identity"]},
        )
    ]
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    assert losses[2] == losses[0]
    assert losses[3] != pytest.approx(losses[0], abs=1e-5)


def test_a_dropped_identity_is_the_empty_prompt(tmp_path):
    method = made(tmp_path, drop=DropSettings(identity=0.2, text=0.1, both=0.2))
    given = batch()
    other = given | {"identity": batch(seed=9)["identity"]}
    for draw, same in ((0.1, True), (0.25, False), (0.4, True), (0.9, False)):
        drop = {"drop": torch.full((2,), draw)}
        losses = [method(one | drop)["loss"].item() for one in (given, other)]
        assert (losses[0] == losses[1]) is same, draw


def test_scale_goes_from_nobody_to_the_person(tmp_path):
    method = made(tmp_path).eval()
    other = Condition(drawn(2, DIM, seed=3))
    assert torch.equal(painted(method, ASKED, scale=0.0), painted(method, other, scale=0.0))
    full, half, none = (painted(method, ASKED, scale=scale) for scale in (1.0, 0.5, 0.0))
    assert not torch.equal(full, painted(method, other))
    assert not torch.equal(full, half)
    late = painted(method, ASKED, start_step=3)
    assert torch.equal(late, none), "with all steps delayed nobody is left"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"base": SDXL}, "one text encoder"),
        ({"features": replace(FEATURES, identity_dim=33)}, "a word of it has 32 .* vector of 33"),
        ({"features": replace(FEATURES, latent_shape=(5, 16, 16))}, "takes 4 channels.* have 5"),
    ],
)
def test_a_base_that_does_not_fit_is_refused(tmp_path, more, why):
    with pytest.raises(BadValue, match=why):
        made(tmp_path, **more)


def test_dlib_s_vectors_fit_the_tiny_base_that_is_as_wide(tmp_path):
    features = replace(FEATURES, identity_dim=128)
    method = made(tmp_path, base="random:tiny-sd128", features=features)
    method(batch() | {"identity": drawn(2, 128)})["loss"].backward()


def test_several_reference_faces_are_refused(tmp_path):
    with pytest.raises(BadValue, match="several faces"):
        painted(made(tmp_path), Condition(torch.ones(1, 3, DIM)))


def test_the_networks_have_the_published_number_of_parameters():
    with torch.device("meta"):
        unet = load_unet("random:sd15")
        text = CLIPTextModel(CLIPTextConfig(**TEXTS["sd15"][0]))
        ids = torch.zeros(77, dtype=torch.long)
        prompt = IdentityPrompt(text, ids, ids, 4)
    counts = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (unet, prompt)]
    assert [round(count, 1) for count in counts] == [859.5, 123.1]


# The export, read by diffusers and transformers.


def saved(home, **more):
    method = moved(made(home / "features", **more), seed=3).eval()
    method.save(home / "export")
    return method


@torch.no_grad()
def test_diffusers_and_transformers_load_what_is_saved_and_paint_the_same(tmp_path):
    method, folder = saved(tmp_path), tmp_path / "export"
    with safe_open(folder / "encoder/model.safetensors", framework="pt") as held:
        assert all(name.startswith("text_model.") for name in held.keys())  # noqa: SIM118
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="arc2face", use_safetensors=True)
    text = CLIPTextModel.from_pretrained(folder, subfolder="encoder", use_safetensors=True).eval()
    assert all(torch.equal(w, method.unet.state_dict()[n]) for n, w in unet.state_dict().items())
    # As Arc2Face's own pipeline: the word's embedding is the unit vector, the rest is zeros.
    prompt, states = method.encoder, []
    table = text.embeddings.token_embedding.weight
    empty = text(prompt.empty[None]).last_hidden_state
    for vector in torch.nn.functional.normalize(ASKED.identity, dim=1):
        table[prompt.asked[prompt.place]] = vector
        states.append(text(prompt.asked[None]).last_hidden_state)
    pipe = pipeline(SD)
    pipe.unet = unet
    noise = drawn(2, 4, 16, 16, seed=7)
    theirs = pipe(
        prompt_embeds=torch.cat(states), negative_prompt_embeds=empty.expand(2, -1, -1),
        latents=noise, num_inference_steps=3, guidance_scale=3.0, output_type="pt",
    ).images  # fmt: skip
    ours = painted(method, ASKED, guidance=3.0)
    assert (ours - theirs).abs().max() < 1e-5
    assert (ours - painted(method, ASKED, guidance=3.0, scale=0.0)).abs().max() > 1e-3


def test_an_export_alone_paints_what_was_saved_without_any_base(tmp_path):
    load_unet(SD).save_pretrained(tmp_path / "base/unet")
    prompt = IdentityPrompt.of(SD)
    prompt.model.save_pretrained(tmp_path / "base/text_encoder")
    from training.nets.clip_presets import byte_tokenizer

    tokenizer = byte_tokenizer(514, fills_with_zero=False)
    tokenizer.save_pretrained(tmp_path / "base/tokenizer")
    method = saved(tmp_path, base=f"file:{tmp_path}/base")
    shutil.rmtree(tmp_path / "base")
    shutil.rmtree(tmp_path / "features")
    again = load_export(tmp_path / "export")
    assert torch.equal(painted(again, ASKED), painted(method, ASKED))
    held = json.loads((tmp_path / "export/config.json").read_text())
    assert (held["kind"], held["base"]) == ("arc2face", "")
    assert {"arc2face/config.json", "encoder/model.safetensors"} <= held["files"].keys()


def test_weights_of_another_size_are_refused(tmp_path):
    saved(tmp_path)
    other = made(tmp_path / "other", base="random:tiny-sd128")
    with pytest.raises(BadWeights, match="another size"):
        other.read(tmp_path / "export")


def test_weights_of_a_like_export_can_be_put_in(tmp_path):
    method, other = saved(tmp_path / "a"), made(tmp_path / "b")
    other.load(tmp_path / "a/export")
    assert torch.equal(painted(other, ASKED), painted(method, ASKED))


def test_the_model_card_loads_it_as_it_says(tmp_path):
    saved(tmp_path)
    told = {"folder": str(tmp_path / "export"), "identity": ASKED.identity}
    text = (tmp_path / "export/README.md").read_text()
    for code in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(code, told)  # the card's own code
    assert told["pictures"].shape == (2, 3, 64, 64)
    assert told["unet"].config.cross_attention_dim == told["encoder"].config.hidden_size == 32
