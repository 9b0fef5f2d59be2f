"""What adapters with attention of their own have in common, whatever they put there."""

import json
import re
from dataclasses import replace
from importlib import import_module

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
    drawn,
    learnt_by_heart,
    make,
    moved,
    painted,
)
from training.build import METHODS, load_export
from training.method import Condition
from training.nets.presets import load_unet
from training.settings import DropSettings, MethodSettings, Scale

SETTINGS = {
    "consistent_id": MethodSettings(kind="consistent_id", lora_rank=4),
    "fast_composer": MethodSettings(kind="fast_composer"),
    "photo_verse": MethodSettings(kind="photo_verse", lora_rank=4, tokens=3),
    "w_plus": MethodSettings(kind="w_plus"),
}
RATES = {"consistent_id": 1e-2, "fast_composer": 2e-2, "photo_verse": 1e-2, "w_plus": 2e-2}
EVERY = pytest.mark.parametrize("kind", SETTINGS)
BASES = pytest.mark.parametrize(
    ("kind", "base"), [*((kind, SD) for kind in SETTINGS), ("consistent_id", SDXL)]
)
LOOKING = [kind for kind in SETTINGS if kind != "w_plus"]
SPOKEN = {SD: replace(FEATURES, text_encoder=SD), SDXL: replace(FEATURES, text_encoder=SDXL)}


def made(folder, kind, *, base=SD, **more):
    module, _, name = METHODS[kind].partition(":")
    how = {"method": SETTINGS[kind], "features": SPOKEN[base]} | more
    return make(folder, kind=getattr(import_module(module), name), base=base, **how)


def drawing(method, one, **how):
    return painted(method, one, steps=2, **how)


def asked(method, *, faces=0, seed=2, count=1):
    of = (count, faces) if faces else (count,)
    return Condition(
        drawn(*of, DIM, seed=seed),
        text=drawn(count, TOKENS, WIDTH, seed=3),
        image=drawn(*of, *IMAGE, seed=seed + 1) if method.recipe.method.takes_image else None,
    )


@BASES
def test_only_the_adapter_gets_gradients_and_all_of_it_does(tmp_path, kind, base):
    method = moved(made(tmp_path, kind, base=base)).eval()
    method(batch())["loss"].backward()
    trained = {name for name, p in method.named_parameters() if p.grad is not None}
    assert trained == set(method.trainable())
    still = [n for n, w in method.trainable().items() if not w.grad.abs().sum() > 0]
    assert still == []


@EVERY
def test_checkpointing_of_gradients_changes_no_gradient(tmp_path, kind):
    gradients = []
    for scale in (Scale(), Scale(gradient_checkpointing=True)):
        method = moved(made(tmp_path, kind, scale=scale)).train()
        method(batch())["loss"].backward()
        gradients.append([weight.grad for weight in method.trainable().values()])
    for plain, tuned in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, tuned, rtol=1e-3, atol=1e-5)


@EVERY
def test_eight_samples_are_learnt_by_heart(tmp_path, kind):
    history = learnt_by_heart(made(tmp_path, kind), RATES[kind])
    assert history[-1] < 0.8 * history[0], history[::5]


@EVERY
def test_what_is_ejected_is_the_base_as_it_was(tmp_path, kind):
    base, given = load_unet(SD), batch()
    ejected = moved(made(tmp_path, kind)).eject()
    assert repr(ejected) == repr(base)
    assert list(ejected.state_dict()) == list(base.state_dict())
    assert all(map(torch.equal, ejected.state_dict().values(), base.state_dict().values()))
    assert all(p.requires_grad for p in ejected.parameters())
    with torch.no_grad():
        was, now = (unet(given["latents"], 5, given["text"]).sample for unet in (base, ejected))
    assert torch.equal(was, now)


@EVERY
def test_without_the_adapter_the_base_s_own_prediction_is_made(tmp_path, kind):
    method, given, times = moved(made(tmp_path, kind)).eval(), batch(), torch.tensor([5, 9])
    told = method._told(given)
    with torch.no_grad():
        theirs = load_unet(SD)(given["latents"], times, given["text"]).sample
        with method.adapter_off():
            assert torch.equal(method._predict(given["latents"], times, told, None), theirs)
        ours = method._predict(given["latents"], times, told, None)
    assert not torch.allclose(ours, theirs, atol=1e-3)


@EVERY
def test_without_the_adapter_everybody_is_painted_alike(tmp_path, kind):
    method = moved(made(tmp_path, kind))
    one, other = asked(method), asked(method, seed=50)
    off, same = drawing(method, one, scale=0.0), drawing(method, other, scale=0.0)
    assert torch.equal(off, same)
    full, half = drawing(method, one), drawing(method, one, scale=0.5)
    assert not torch.equal(full, drawing(method, other))
    assert len({picture.sum().item() for picture in (off, half, full)}) == 3


@EVERY
def test_identity_waits_for_its_first_step(tmp_path, kind):
    method = moved(made(tmp_path, kind))
    one, other = asked(method), asked(method, seed=50)
    late = drawing(method, one, start_step=2)
    assert torch.equal(late, drawing(method, other, start_step=2))
    assert not torch.equal(drawing(method, one, start_step=1), late)
    assert not torch.equal(drawing(method, one, start_step=1), drawing(method, one))


@EVERY
def test_a_dropped_identity_is_forgotten_and_a_kept_one_is_not(tmp_path, kind):
    drop = DropSettings(identity=0.5, text=0.0, both=0.0)
    method = moved(made(tmp_path, kind, drop=drop)).eval()
    given, new = batch(), batch(seed=9)
    other = given | {"identity": new["identity"], "image": new["image"]}
    for draw, same in ((0.4, True), (0.6, False)):
        losses = [method({**one, "drop": torch.full((2,), draw)})["loss"] for one in (given, other)]
        assert (losses[0] == losses[1]).item() is same


@EVERY
def test_the_prompt_s_states_are_left_as_they_were(tmp_path, kind):
    """FastComposer and ConsistentID scatter fused words into the tensor that they are given."""
    method, given = moved(made(tmp_path, kind)), batch()
    before = given["text"].clone()
    method(given)
    assert torch.equal(given["text"], before)


@EVERY
def test_several_faces_are_looked_at_together_in_no_order(tmp_path, kind):
    method = moved(made(tmp_path, kind))
    two = asked(method, faces=2)
    swapped = replace(
        two, identity=two.identity.flip(1), image=None if two.image is None else two.image.flip(1)
    )
    first = replace(
        two, identity=two.identity[:, 0], image=None if two.image is None else two.image[:, 0]
    )
    assert torch.allclose(drawing(method, two), drawing(method, swapped), atol=1e-5)
    assert not torch.allclose(drawing(method, two), drawing(method, first), atol=1e-3)


@pytest.mark.parametrize("kind", LOOKING)
def test_an_image_that_is_looked_at_changes_the_picture(tmp_path, kind):
    method = moved(made(tmp_path, kind))
    one = asked(method)
    other = replace(one, image=drawn(*one.image.shape, seed=60))
    assert not torch.equal(drawing(method, one), drawing(method, other))
    with pytest.raises(BadValue, match="looks at the reference faces too"):
        drawing(method, replace(one, image=None))


@pytest.mark.parametrize("kind", LOOKING)
def test_features_without_images_are_refused(tmp_path, kind):
    blind = replace(SPOKEN[SD], image_shape=(0, 0))
    with pytest.raises(BadValue, match="prepare the features with an image encoder"):
        made(tmp_path, kind, features=blind)


@pytest.mark.parametrize("kind", ["consistent_id", "fast_composer"])
def test_features_without_text_are_refused(tmp_path, kind):
    with pytest.raises(BadValue, match="prepare the features with a text encoder"):
        made(tmp_path, kind, features=FEATURES)


# The export.


@BASES
def test_an_export_alone_paints_what_was_saved(tmp_path, kind, base):
    method = moved(made(tmp_path / "features", kind, base=base))
    method.save(tmp_path / "export")
    (tmp_path / "features/empty.safetensors").unlink()
    again = load_export(tmp_path / "export")
    assert not again.training
    wanted = asked(method) if base == SD else replace(asked(method), pooled=drawn(1, 32, seed=4))
    assert torch.equal(drawing(again, wanted), drawing(method.eval(), wanted))
    about = json.loads((tmp_path / "export/config.json").read_text())
    assert (about["kind"], about["base"]) == (kind, f"{base}#0")
    assert type(method).file in about["files"]


@EVERY
def test_weights_of_a_like_export_can_be_put_in_and_others_are_refused(tmp_path, kind):
    method = moved(made(tmp_path / "a", kind)).eval()
    method.save(tmp_path / "a/export")
    other = made(tmp_path / "b", kind).eval()
    other.load(tmp_path / "a/export")
    wanted = asked(method)
    assert torch.equal(drawing(other, wanted), drawing(method, wanted))
    raw = made(tmp_path / "c", kind, method=replace(SETTINGS[kind], identity_norm="raw"))
    with pytest.raises(BadWeights, match="identity_norm"):
        raw.read(tmp_path / "a/export")


@EVERY
def test_the_model_card_loads_it_as_it_says(tmp_path, kind):
    method = moved(made(tmp_path / "features", kind))
    method.save(tmp_path / "export")
    one = asked(method)
    told = {"folder": str(tmp_path / "export"), "identity": one.identity, "image": one.image}
    card = (tmp_path / "export/README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    for code in blocks:
        exec(code.replace("steps=30", "steps=2"), told)  # the card's own code
    assert told["pictures"].shape == (1, 3, 64, 64)
    assert all(f"`{part}`" in card for part in told["parts"])
