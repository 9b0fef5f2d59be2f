"""ConsistentID: its published layout, and localisation where the words are."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from infra.errors import BadValue
from tests.training.methods.adapters import DIM, SD, batch, drawn, moved, pipeline
from tests.training.methods.test_attention_adapters import SPOKEN, asked, made
from training.nets.attention_maps import cross_attention, watched
from training.nets.consistent_id import FacialEncoder
from training.nets.face_parts import PARTS
from training.nets.published import keys_and_values_joined
from training.settings import LossSettings

NAME = "ip-adapter-faceid.safetensors"


def given_of(method, one):
    of = method.conditions
    return of.whole(one.identity, image=one.image, text=one.text, pooled=None)


def test_its_facial_encoder_has_the_published_names_and_about_as_many_parameters():
    with torch.device("meta"):
        encoder = FacialEncoder((257, 1280), 768)
    names = FacialEncoder.published_names()
    assert set(names) == {name for name, _ in encoder.named_parameters()}
    published = keys_and_values_joined({names[n]: torch.empty(2) for n in names})
    assert {
        "visual_projection.latents", "visual_projection.layers.7.0.to_kv.weight",
        "visual_projection.layers.0.1.3.weight", "fuse_module.mlp1.layernorm.bias",
    } <= set(published)  # fmt: skip
    # latents and what surrounds them, eight blocks of width 1024, two MLPs and a norm.
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6, 1) == 105.8


def test_diffusers_plus_adapter_reads_the_whole_face_s_part_and_predicts_the_same(tmp_path):
    method = moved(made(tmp_path / "features", "consistent_id")).eval()
    method.save(tmp_path / "export")
    held = load_file(tmp_path / "export/consistentid.safetensors")
    assert {name.partition(".")[0] for name in held} == {
        "FacialEncoder", "image_proj", "adapter_modules",
    }  # fmt: skip
    theirs = {
        name.replace("adapter_modules", "ip_adapter"): weight
        for name, weight in held.items()
        if not name.startswith("FacialEncoder")
    }
    save_file(theirs, tmp_path / NAME)
    pipe = pipeline()
    pipe.load_ip_adapter(
        str(tmp_path), subfolder="", weight_name=NAME, image_encoder_folder=None,
        local_files_only=True,
    )  # fmt: skip
    one, times = asked(method, count=2), torch.tensor([5, 9])
    given = given_of(method, one)
    projection = pipe.unet.encoder_hid_proj.image_projection_layers[0]
    projection.clip_embeds, projection.shortcut = one.image[:, None], False
    latents = drawn(2, 4, 16, 16)
    with torch.no_grad():
        text, _ = method._cross(given)
        added = {"image_embeds": [given.faces[:, :, :DIM]]}
        told = pipe.unet(latents, times, text, added_cond_kwargs=added).sample
        ours = method._predict(latents, times, given, None)
    assert text.shape[1] == one.text.shape[1] + len(PARTS)
    assert (ours - told).abs().max() < 1e-5


def test_a_part_is_told_by_its_own_patches_alone(tmp_path):
    """With two by two patches a change at the top moves the eyes' word and not the mouth's."""
    method = moved(made(tmp_path, "consistent_id"))
    encoder, words = method.facial_encoder, method.words.states
    image = drawn(1, 1, *SPOKEN[SD].image_shape)
    changed = image.clone()
    changed[:, :, 1:3] += 1
    with torch.no_grad():
        apart = (encoder(image, words) - encoder(changed, words)).abs().amax(dim=-1)[0, 0]
    by_part = dict(zip(PARTS, apart.tolist(), strict=True))
    assert by_part["mouth"] == 0
    assert min(by_part["eyes"], by_part["face"]) > 1e-4


def test_attention_is_looked_at_in_cross_attention_at_the_words_of_the_parts(tmp_path):
    """The original looked at self-attention, where the n-th column is a pixel and no word."""
    method = moved(made(tmp_path, "consistent_id"))
    given, latents = given_of(method, asked(method, count=2)), drawn(2, 4, 16, 16)
    layers = cross_attention(method.unet)
    assert all(name.endswith("attn2") for name in layers)
    with torch.no_grad(), watched(method.unet, layers) as seen:
        method._predict(latents, torch.tensor([5, 9]), given, None)
        told = seen.told[layers[0]]
        layer, text = told.layer, told.text
        query = layer.to_q(told.states).unflatten(2, (layer.heads, -1)).transpose(1, 2)
        key = layer.to_k(text).unflatten(2, (layer.heads, -1)).transpose(1, 2)
        shares = (query @ key.mT / key.shape[-1] ** 0.5).softmax(-1).mean(1)
        ours = method._attended(told, given)
    words, _ = method._cross(given)
    assert torch.equal(text, words), "the words are the last that text attention is told"
    assert torch.allclose(ours, shares[..., -len(PARTS) :], atol=1e-6)


def test_localisation_moves_attention_to_the_parts(tmp_path):
    losses = LossSettings(mse=0.0, localise=1.0)
    method = moved(made(tmp_path, "consistent_id", losses=losses)).eval()
    given = batch()
    regions = method._regions(given, method._told(given))
    assert regions.shape == (2, len(PARTS), 16, 16)
    optimiser = torch.optim.SGD(method.trainable().values(), lr=0.3)
    history = []
    for _ in range(6):
        loss = method(given)["loss"]
        optimiser.zero_grad()
        loss.backward()
        assert method.facial_encoder.fuse_module.layer_norm.weight.grad.any()
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < history[0]


def test_an_encoder_without_a_square_of_patches_is_refused(tmp_path):
    odd = replace(SPOKEN[SD], image_shape=(6, 24))
    with pytest.raises(BadValue, match="square grid of patches after a class state"):
        made(tmp_path, "consistent_id", features=odd)
