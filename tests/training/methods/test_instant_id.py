from dataclasses import replace

import pytest
import torch

from infra.errors import BadValue
from stages.landmarks import arcface5
from tests.training.methods.adapters import (
    DIM,
    SD,
    SDXL,
    batch,
    condition,
    drawn,
    learnt_by_heart,
    make,
    moved,
    painted,
)
from training.method import Condition
from training.methods.instant_id import InstantID
from training.nets.landmarks_drawing import drawn_landmarks, frontal_landmarks_px
from training.nets.presets import load_unet
from training.settings import DropSettings, MethodSettings, Scale

RAW = MethodSettings(kind="instant_id", tokens=16, identity_norm="raw")
BASES = pytest.mark.parametrize("base", [SD, SDXL])


def made(folder, method=RAW, **more):
    return make(folder, method, kind=InstantID, **more)


def drawing_of(landmarks, side_px=64):
    return drawn_landmarks(torch.from_numpy(arcface5(landmarks.numpy(), "dlib5")), side_px, side_px)


def watched(method):
    """Return what IdentityNet, and one layer's keys, are told from now on."""
    told = {"tokens": [], "drawing": [], "keys": []}

    def look(_, given, __):
        told["tokens"].append(given[2])
        told["drawing"].append(given[3])

    method.controlnet.register_forward_pre_hook(look, with_kwargs=True)
    name = method.adapter.attention[1]
    method.unet.attn_processors[name].to_k_ip[0].register_forward_pre_hook(
        lambda _, given: told["keys"].append(given[0])
    )
    return told


@BASES
def test_all_three_parts_get_gradients_and_the_base_gets_none(tmp_path, base):
    method = moved(made(tmp_path, base=base))
    method(batch())["loss"].backward()
    trained = {name for name, weight in method.named_parameters() if weight.grad is not None}
    assert trained == set(method.trainable())
    assert all(weight.grad.abs().sum() > 0 for weight in method.trainable().values())
    assert {name.partition(".")[0] for name in trained} == {"unet", "resampler", "controlnet"}


@BASES
def test_eight_samples_are_learnt_by_heart(tmp_path, base):
    history = learnt_by_heart(made(tmp_path, base=base), 1e-2)
    assert history[-1] < 0.7 * history[0], history[::5]


def test_checkpointing_and_memory_layout_change_no_gradient(tmp_path):
    gradients = []
    for scale in (Scale(), Scale(gradient_checkpointing=True, channels_last=True)):
        method = moved(made(tmp_path, scale=scale), seed=2).train()
        assert method.controlnet.is_gradient_checkpointing is scale.gradient_checkpointing
        method(batch())["loss"].backward()
        gradients.append([weight.grad for weight in method.trainable().values()])
    for plain, tuned in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, tuned, rtol=1e-3, atol=1e-4)


def test_identity_net_is_told_the_very_tokens_that_the_keys_are_and_no_text(tmp_path):
    method = moved(made(tmp_path))
    told, given = watched(method), batch()
    method(given)
    with torch.no_grad():
        tokens = method.resampler(given["identity"][:, None])
    assert torch.equal(told["tokens"][0], tokens)
    assert torch.equal(told["keys"][0].flatten(1, -2), tokens)
    assert tokens.shape == (2, 16, 32)


def test_vectors_are_used_as_they_are(tmp_path):
    method, given = moved(made(tmp_path)), batch()
    louder = given | {"identity": 3 * given["identity"]}
    assert method(given)["loss"] != method(louder)["loss"]
    unit = moved(made(tmp_path, replace(RAW, identity_norm="unit")))
    assert unit(given)["loss"].item() == pytest.approx(unit(louder)["loss"].item(), abs=1e-5)


def test_a_dropped_identity_is_the_tokens_of_zeros_in_both_places(tmp_path):
    method = moved(made(tmp_path, drop=DropSettings(identity=0.3, text=0.0, both=0.0)))
    told, given = watched(method), batch()
    method(given | {"drop": torch.tensor([0.2, 0.9])})
    with torch.no_grad():
        (zeros,) = method.resampler(torch.zeros(1, 1, DIM))
    tokens, keys = told["tokens"][0], told["keys"][0].flatten(1, -2)
    assert torch.allclose(tokens[0], zeros, atol=1e-6)
    assert not torch.allclose(tokens[1], zeros, atol=1e-3)
    assert torch.equal(tokens, keys)
    assert told["drawing"][0].any(dim=(1, 2, 3)).all(), "landmarks are never dropped"


def test_landmarks_are_drawn_at_the_size_that_is_trained(tmp_path):
    """The original drew on the photograph and resized: its points shrank with the photograph."""
    method, given = made(tmp_path), batch()
    told = watched(method)
    method(given)
    assert torch.equal(told["drawing"][0], drawing_of(given["landmarks"]))
    assert set(told["drawing"][0].unique().tolist()) <= {0.0, *torch.tensor([0.6, 1]).tolist()}
    smaller = given | {name: given[name][..., :8, :8] for name in ("latents", "noise", "mask")}
    method(smaller)
    assert told["drawing"][1].shape == (2, 3, 32, 32)
    assert torch.equal(told["drawing"][1], drawing_of(given["landmarks"], 32))


def test_a_face_is_drawn_where_it_is_asked_for_and_in_front_where_nobody_says(tmp_path):
    method = moved(made(tmp_path))
    told, asked = watched(method), condition(method)
    front = painted(method, asked, steps=1)
    points = torch.from_numpy(frontal_landmarks_px(64, 64)).expand(2, 5, 2)
    assert torch.equal(told["drawing"][0][:2], drawn_landmarks(points, 64, 64))
    elsewhere = replace(asked, landmarks=batch()["landmarks"])
    moved_away = painted(method, elsewhere, steps=1)
    assert torch.equal(told["drawing"][1][2:], drawing_of(batch()["landmarks"]))
    assert not torch.equal(front, moved_away)
    without = [painted(method, each, control=0.0, steps=1) for each in (asked, elsewhere)]
    assert torch.equal(*without)
    assert not torch.equal(without[0], front)
    assert len(told["drawing"]) == 2, "IdentityNet is not asked for nothing"


@BASES
def test_without_the_adapter_the_base_s_own_picture_is_painted(tmp_path, base):
    method = moved(made(tmp_path, base=base)).eval()
    given, time, asked = batch(), torch.tensor([500, 900]), condition(method)
    none = painted(method, asked, scale=0.0)
    other = replace(asked, identity=drawn(2, DIM, seed=77), landmarks=given["landmarks"])
    assert torch.equal(none, painted(method, other, scale=0.0))
    assert not torch.equal(none, painted(method, asked))
    micro = {"time_ids": given["size"], "text_embeds": given["pooled"]} if base == SDXL else None
    told = method.conditions.whole(
        given["identity"], image=None, text=given["text"],
        pooled=given["pooled"] if base == SDXL else None,
    )  # fmt: skip
    with torch.no_grad(), method.adapter_off():
        ours = method._predict(given["latents"], time, told, given["size"], control=0.0)
        theirs = load_unet(base)(
            given["latents"], time, given["text"], added_cond_kwargs=micro
        ).sample
    assert torch.equal(ours, theirs)


@BASES
def test_ejecting_leaves_the_base_bit_identical(tmp_path, base):
    method = moved(made(tmp_path, base=base))
    painted(method, steps=1)
    ejected, fresh = method.eject(), load_unet(base)
    assert repr(ejected) == repr(fresh)
    assert ejected.config == fresh.config
    held = fresh.state_dict()
    assert ejected.state_dict().keys() == held.keys()
    assert all(torch.equal(weight, held[name]) for name, weight in ejected.state_dict().items())


def test_several_reference_faces_are_refused(tmp_path):
    with pytest.raises(BadValue, match="several faces"):
        painted(made(tmp_path), Condition(torch.ones(1, 3, DIM)))
