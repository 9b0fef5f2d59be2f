import re
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import AnimateDiffPipeline, CogVideoXPipeline, DDIMScheduler

from infra.errors import BadValue, BadWeights
from tests.training.methods.adapters import drawn, moved
from tests.training.videos import (
    COGVIDEOX,
    DIM,
    MOVING,
    WITH_PICTURE,
    batch,
    features,
    recipe,
    write_videos,
)  # fmt: skip
from training.build import load_export
from training.features import Features
from training.loss_settings import LossSettings
from training.method import Condition, Sampling
from training.methods.magic_id import MagicID
from training.nets.presets import load_vae
from training.nets.video_base import ask
from training.nets.video_presets import load_video_network, load_video_vae
from training.settings import DropSettings, MethodSettings

MAGIC = MethodSettings(kind="magic_id", lora_rank=4)
BOTH = pytest.mark.parametrize("base", [MOVING, COGVIDEOX])
NOBODY = Condition(torch.zeros(2, DIM))


def make(folder, base=MOVING, method=MAGIC, **changes):
    if not folder.exists():
        write_videos(folder, base)
    told = recipe(folder, base, method=method, **changes)
    return MagicID(told, Features.read(folder), folder)


def saved(home, base):
    method = moved(make(home / "features", base)).eval()
    method.save(home / "export")
    return method


def filmed(method, asked=NOBODY, **how):
    rng = torch.Generator().manual_seed(7)
    return method.generate(asked, rng, Sampling(**{"steps": 2} | how))


def pair(base, count=2):
    """Winners of what one path of a square looks like, losers of another."""
    made = batch(base, count)
    rng = torch.Generator().manual_seed(9)
    return made | {"loser_latents": torch.randn(made["latents"].shape, generator=rng)}


def learnt(method, given, steps, rate=1e-2):
    optimiser = torch.optim.AdamW(method.trainable().values(), lr=rate)
    history = []
    for _ in range(steps):
        losses = method(given)
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        history.append({name: float(loss.detach()) for name, loss in losses.items()})
    return history


@BOTH
def test_all_attention_is_learnt_and_nothing_else(tmp_path, base):
    method = moved(make(tmp_path / "features", base))
    method(batch(base))["loss"].backward()
    trained = {name for name, weight in method.named_parameters() if weight.grad is not None}
    assert trained == set(method.trainable())
    layers = {name.split(".lora_")[0] for name in trained}
    attention = {
        f"network.{name}"
        for name, _ in method.network.named_modules()
        if re.search(r"\.(to_q|to_k|to_v|to_out\.0)$", name)
    }
    assert layers == attention
    assert any("motion_modules" in name for name in layers) == (base == MOVING)


@BOTH
def test_at_strength_0_it_is_its_base_bit_for_bit(tmp_path, base):
    method, given = moved(make(tmp_path / "features", base)).eval(), batch(base)
    plain = load_video_network(method.recipe.base)
    z_t, t = given["latents"], torch.tensor([500, 20])
    with torch.no_grad():
        theirs = ask(plain, z_t, t, given["text"])
        with method.adapter_off():
            assert torch.equal(method._predict(z_t, t, given), theirs)
        assert not torch.equal(method._predict(z_t, t, given), theirs)
    ejected = method.eject().state_dict()
    assert all(torch.equal(weight, ejected[name]) for name, weight in plain.state_dict().items())


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_a_preferred_sample_grows_likelier_and_the_reference_stays_as_it_was(tmp_path, loss):
    losses = LossSettings(mse=0.0, dpo_beta=100.0, **{loss: 1.0})
    method, given = make(tmp_path / "features", COGVIDEOX, losses=losses), pair(COGVIDEOX)
    noised = method.schedule.noised(given["latents"], given["noise"], given["time"])
    with torch.no_grad():
        before = ask(method.network, noised.z_t, noised.t, given["text"])
    history = learnt(method, given, 12)
    first, last = history[0], history[-1]
    assert first["dpo_gap"] == 0.0
    assert first["dpo_accuracy"] == 0.5
    assert last["loss"] < 0.8 * first["loss"]
    assert last["dpo_gap"] > 0.1
    assert last["dpo_accuracy"] == 1.0
    now = {}
    with torch.no_grad():
        for name in ("latents", "loser_latents"):
            plain = {**given, "latents": given[name]}
            now[name] = method(plain | {"loser_latents": given["latents"]})["mse"]
            with method.adapter_off():
                now[name] -= method(plain | {"loser_latents": given["latents"]})["mse"]
        assert now["latents"] < now["loser_latents"]
        with method.adapter_off():
            after = ask(method.network, noised.z_t, noised.t, given["text"])
    assert torch.equal(after, before)


@pytest.mark.slow
@BOTH
def test_four_clips_are_learnt_by_heart(tmp_path, base):
    method = make(tmp_path / "features", base, method=replace(MAGIC, lora_rank=16))
    history = learnt(method, batch(base, 4), 40)
    assert history[-1]["mse"] < 0.85 * history[0]["mse"], [row["mse"] for row in history[::8]]


# The export, read by diffusers.


def pipeline(base):
    """Build diffusers' pipeline of the same parts as the method's base."""
    network = load_video_network(recipe(".", base).base)
    none = {"text_encoder": None, "tokenizer": None}
    if base == COGVIDEOX:
        return CogVideoXPipeline(
            **none, vae=load_video_vae(base), transformer=network, scheduler=DDIMScheduler()
        )
    parts = {"vae": load_vae("random:tiny-sd"), "motion_adapter": None, "unet": network}
    return AnimateDiffPipeline(**none, **parts, scheduler=DDIMScheduler())


@BOTH
@torch.no_grad()
def test_the_pipeline_of_its_base_loads_it_and_predicts_the_same(tmp_path, base):
    method, pipe, given = saved(tmp_path, base), pipeline(base), batch(base)
    network = pipe.transformer if base == COGVIDEOX else pipe.unet
    asked = given["latents"], torch.tensor([500, 20]), given["text"]
    plain = ask(network, *asked)
    pipe.load_lora_weights(tmp_path / "export", weight_name="pytorch_lora_weights.safetensors")
    ours = method._predict(*asked[:2], given)
    assert (ask(network, *asked) - ours).abs().max() < 1e-5
    assert (plain - ours).abs().max() > 1e-3


@BOTH
def test_an_export_and_its_base_draw_what_was_saved(tmp_path, base):
    method = saved(tmp_path, base)
    shutil.rmtree(tmp_path / "features")
    again = load_export(tmp_path / "export")
    film = filmed(method)
    assert film.shape == (2, features(base).clip_frames, 3, *[features(base).image_px] * 2)
    assert torch.equal(filmed(again), film)


def test_the_model_card_loads_it_as_it_says(tmp_path):
    method, pipe = saved(tmp_path, MOVING), pipeline(MOVING)
    told = {"folder": str(tmp_path / "export"), "pipe": pipe, "identity": torch.zeros(1, DIM)}
    card = (tmp_path / "export/README.md").read_text().replace("steps=30", "steps=2")
    for code in re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL):
        exec(code, told)  # the card's own code
    assert told["videos"].shape == (1, 4, 3, 32, 32)
    given = batch()
    asked = given["latents"], torch.tensor([500, 20]), given["text"]
    with torch.no_grad():
        assert (ask(pipe.unet, *asked) - method._predict(*asked[:2], given)).abs().max() < 1e-5


def test_who_is_drawn_is_in_the_weights_and_what_is_in_the_text(tmp_path):
    method = moved(make(tmp_path / "features")).eval()
    film = filmed(method)
    assert torch.equal(filmed(method, Condition(drawn(2, DIM, seed=2))), film)
    assert not torch.equal(filmed(method, Condition(NOBODY.identity, drawn(2, 77, 32))), film)


def test_training_goes_on_from_an_earlier_run_and_its_reference_is_still_the_base(tmp_path):
    method, given = saved(tmp_path, MOVING), batch()
    start = replace(MAGIC, start=f"file:{tmp_path / 'export'}")
    again = make(tmp_path / "features", method=start).eval()
    z_t, t = given["latents"], torch.tensor([500, 20])
    with torch.no_grad():
        assert torch.equal(again._predict(z_t, t, given), method._predict(z_t, t, given))
        with again.adapter_off(), method.adapter_off():
            assert torch.equal(again._predict(z_t, t, given), method._predict(z_t, t, given))
    with pytest.raises(BadWeights, match="Name the export of a run of magic_id on this base"):
        make(tmp_path / "other", COGVIDEOX, method=start)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"method": MethodSettings(kind="magic_id")}, "lora_rank cannot be 0: give 1 or more"),
        ({"drop": DropSettings()}, "set drop.identity and drop.both to 0"),
        ({"base": WITH_PICTURE}, "give a text-to-video base"),
    ],
)
def test_what_cannot_be_tuned_is_refused(tmp_path, more, why):
    with pytest.raises(BadValue, match=why):
        make(tmp_path / "features", **more)
