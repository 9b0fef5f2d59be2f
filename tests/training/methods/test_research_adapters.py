"""What infinite_id, face_chain_fact, dp_adapter and uni_id have in common."""

from dataclasses import replace

import pytest
import torch

from infra.errors import BadValue, BadWeights
from tests.training.methods.adapters import (
    DIM,
    FEATURES,
    IMAGE,
    SD,
    SDXL,
    TOKENS,
    WIDTH,
    batch,
    condition,
    drawn,
    learnt_by_heart,
    make,
    moved,
    painted,
)
from training.build import load_export
from training.methods.dp_adapter import DPAdapter
from training.methods.face_chain_fact import FaceChainFact
from training.methods.infinite_id import InfiniteID
from training.methods.uni_id import UniID
from training.nets.presets import load_unet
from training.settings import DropSettings, MethodSettings, Scale

KINDS = {
    "infinite_id": (InfiniteID, MethodSettings(kind="infinite_id")),
    "face_chain_fact": (FaceChainFact, MethodSettings(kind="face_chain_fact", tokens=16)),
    "dp_adapter": (DPAdapter, MethodSettings(kind="dp_adapter")),
    "uni_id": (UniID, MethodSettings(kind="uni_id", tokens=5, text_tokens=2)),
}
EVERY = pytest.mark.parametrize("name", KINDS)
BASES = pytest.mark.parametrize("base", [SD, SDXL])
PARTS = {
    "infinite_id": {"unet", "image_proj"},
    "face_chain_fact": {"unet", "tokens"},
    "dp_adapter": {"unet", "image_proj"},
    "uni_id": {"unet", "text_branch", "adapter_branch"},
}


def made(folder, name, **more):
    kind, method = KINDS[name]
    return make(folder, more.pop("method", method), kind=kind, **more)


def asked(method, count=2):
    """Ask for somebody, with a prompt and a picture to look at."""
    return replace(condition(method, count), image=drawn(count, *IMAGE, seed=5))


def gradients(method, given):
    method.zero_grad()
    method(given)["loss"].backward()
    return {name: weight.grad for name, weight in method.trainable().items()}


@EVERY
@BASES
def test_every_part_gets_gradients_and_the_base_gets_none(tmp_path, name, base):
    method = moved(made(tmp_path, name, base=base))
    # Of both kinds of samples, where branches learn apart.
    given = batch(4) | {"drop": torch.tensor([0.6, 0.6 + 1 / 4096, 0.7, 0.7 + 1 / 4096])}
    given["mask"][:, :8] = 0
    found = gradients(method, given)
    assert {n for n, w in method.named_parameters() if w.grad is not None} == set(found)
    assert {n: g for n, g in found.items() if g.abs().sum() == 0} == {}
    assert {n.partition(".")[0] for n in found} == PARTS[name]


# One half of uni_id's samples teaches words, which learn slowly; see its own tests.
@pytest.mark.parametrize("name", ["infinite_id", "face_chain_fact", "dp_adapter"])
def test_eight_samples_are_learnt_by_heart(tmp_path, name):
    history = learnt_by_heart(made(tmp_path, name), 1e-2)
    assert history[-1] < 0.7 * history[0], history[::5]


@EVERY
@BASES
def test_at_scale_0_it_is_its_base_bit_for_bit(tmp_path, name, base):
    method = moved(made(tmp_path, name, base=base)).eval()
    ask = asked(method)
    how = {"steps": 1, "rescale": name != "face_chain_fact"}
    assert not torch.equal(painted(method, ask, scale=0.0, **how), painted(method, ask, **how))
    plain = load_unet(base)
    given = method.conditions.whole(ask.identity, image=ask.image, text=ask.text, pooled=ask.pooled)
    z_t, t = drawn(2, 4, 16, 16, seed=6), torch.tensor([10, 900])
    added = method._micro(z_t, given, None, torch.float32)
    with torch.no_grad(), method.adapter_off():
        ours = method._predict(z_t, t, given, None)
        theirs = plain(z_t, t, given.text, added_cond_kwargs=added).sample
    assert torch.equal(ours, theirs)


@EVERY
def test_ejected_it_leaves_the_base_as_it_was(tmp_path, name):
    method, plain = moved(made(tmp_path, name)), load_unet(SD)
    painted(method, asked(method), steps=1)
    unet = method.eject()
    assert repr(unet) == repr(plain)
    weights = plain.state_dict()
    assert {n: w.shape for n, w in unet.state_dict().items()} == {
        n: w.shape for n, w in weights.items()
    }
    assert all(torch.equal(w, weights[n]) for n, w in unet.state_dict().items())


@EVERY
@BASES
def test_an_export_alone_paints_what_was_saved(tmp_path, name, base):
    method = moved(made(tmp_path / "features", name, base=base)).eval()
    method.save(tmp_path / "export")
    (tmp_path / "features/empty.safetensors").unlink()
    again = load_export(tmp_path / "export")
    assert type(again) is type(method)
    assert torch.equal(
        painted(again, asked(again), steps=1), painted(method, asked(method), steps=1)
    )


@EVERY
def test_weights_of_another_size_are_refused(tmp_path, name):
    method = made(tmp_path / "features", name)
    method.save(tmp_path / "export")
    tokens = replace(method.recipe.method, tokens=3)
    with pytest.raises(BadWeights, match=r"method\.tokens"):
        made(tmp_path / "other", name, method=tokens).read(tmp_path / "export")


@EVERY
def test_checkpointing_and_memory_layout_change_no_gradient(tmp_path, name):
    given = batch(4) | {"drop": torch.tensor([0.6, 0.6 + 1 / 4096, 0.7, 0.7 + 1 / 4096])}
    given["mask"][:, :8] = 0
    plain, tuned = (
        gradients(moved(made(tmp_path, name, scale=scale), seed=2).train(), given)
        for scale in (Scale(), Scale(gradient_checkpointing=True, channels_last=True))
    )
    for each in plain:
        torch.testing.assert_close(plain[each], tuned[each], rtol=1e-3, atol=1e-4, msg=each)


@EVERY
def test_a_dropped_person_leaves_no_trace(tmp_path, name):
    method = moved(made(tmp_path, name, drop=DropSettings(identity=0.3, text=0.0, both=0.0)))
    given, other = batch(), batch(seed=9)
    for draw, same in ((0.1, True), (0.9, False)):
        drop = {"drop": torch.full((2,), draw)}
        changed = {key: other[key] for key in ("identity", "image")}
        losses = [method(one | drop)["mse"].item() for one in (given, given | changed)]
        assert (losses[0] == losses[1]) is same, draw


@EVERY
def test_several_faces_are_shown_together(tmp_path, name):
    method = moved(made(tmp_path, name)).eval()
    if name == "uni_id":
        one = replace(method.recipe.method, text_tokens=1)
        method = moved(made(tmp_path, name, method=one)).eval()
    one = asked(method)
    twice = replace(
        one,
        identity=torch.stack([one.identity, drawn(2, DIM, seed=8)], dim=1),
        image=torch.stack([one.image, drawn(2, *IMAGE, seed=9)], dim=1),
    )
    assert not torch.equal(painted(method, twice, steps=1), painted(method, one, steps=1))


@EVERY
def test_features_that_do_not_fit_are_refused(tmp_path, name):
    blind = replace(FEATURES, image_shape=(0, 0))
    if name == "dp_adapter":
        made(tmp_path, name, features=blind)
    else:
        with pytest.raises(BadValue, match="prepare the features with an image encoder"):
            made(tmp_path, name, features=blind)
    wide = replace(FEATURES, text_shape=(TOKENS, WIDTH + 1))
    with pytest.raises(BadValue, match="prepare them with this base's codec and text encoder"):
        made(tmp_path, name, features=wide)


@EVERY
def test_a_base_without_cross_attention_is_refused(tmp_path, name, monkeypatch):
    bare = load_unet(SD)
    monkeypatch.setattr(type(bare), "attn_processors", {"down.attn1.processor": None})
    with pytest.raises(BadValue, match="no cross-attention beside each self-attention"):
        made(tmp_path, name)
