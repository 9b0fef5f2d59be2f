"""Proteus-ID: what it tells its base, what it learns, and what it leaves alone."""

import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from infra.errors import BadValue
from tests.training.methods.adapters import moved
from tests.training.videos import (
    COGVIDEOX,
    DIM,
    FACE_POOLED,
    FACE_STATES,
    MOVING,
    TOKENS,
    WIDTH,
    WITH_PICTURE,
    batch,
    features,
    recipe,
    write_videos,
)  # fmt: skip
from training.build import load_export
from training.features import Features
from training.method import Condition, Sampling
from training.methods.proteus_id import ProteusID
from training.nets.proteus_id import ADDED
from training.nets.video_base import ask
from training.nets.video_presets import load_video_network
from training.recipes import recipe as published
from training.settings import (
    DropSettings,
    LossSettings,
    MethodSettings,
    Scale,
    VideoSettings,
)  # fmt: skip

BOTH = pytest.mark.parametrize("base", [COGVIDEOX, WITH_PICTURE])
WHOLE = pytest.mark.parametrize("trained", ["all", "added"])
AT = torch.tensor([500, 20])


def made(folder, base=COGVIDEOX, *, trained="added", told=None, **changes):
    if not folder.exists():
        write_videos(folder, base)
    changes = {"video": VideoSettings(trained=trained)} | changes
    ours = recipe(folder, base, method=MethodSettings(kind="proteus_id"), **changes)
    return ProteusID(ours, told or Features.read(folder), folder)


def whom(count=2, seed=0, base=COGVIDEOX):
    rng = torch.Generator().manual_seed(seed)
    more = {
        "face_states": torch.randn(count, *FACE_STATES, generator=rng),
        "face_pooled": torch.randn(count, FACE_POOLED, generator=rng),
        "attributes_text": torch.randn(count, TOKENS[base], WIDTH, generator=rng),
        "reference_latents": torch.randn(count, 4, 8, 8, generator=rng),
    }
    return Condition(torch.randn(count, DIM, generator=rng), more=more)


def drawn(method, who, seed=0, **how):
    rng = torch.Generator().manual_seed(seed)
    return method.eval().generate(who, rng, Sampling(**({"steps": 2} | how)))


def asked(method, given, t=AT):
    with torch.no_grad():
        return method._predict(given["latents"], t, method.conditions.whole(given))


def test_its_loss_is_the_velocity_s_error_and_as_much_more_as_there_is_motion(tmp_path):
    method, given = moved(made(tmp_path / "f", losses=LossSettings(motion=0.5))), batch(COGVIDEOX)
    losses = method(given)
    schedule = method.schedule
    noised = schedule.noised(given["latents"], given["noise"], given["time"])
    signal = schedule.alphas_cumprod[noised.t].sqrt().view(-1, 1, 1, 1, 1)
    spread = (1 - signal**2).sqrt()
    velocity = signal * given["noise"] - spread * given["latents"]
    squares = (asked(method, given | {"latents": noised.z_t}, noised.t) - velocity).square()
    by_hand = ((1 + 0.5 * given["motion"][:, None]) * squares).mean()
    torch.testing.assert_close(losses["loss"].detach(), by_hand)
    assert losses["motion"] > 0
    assert losses["still"] == 0


@BOTH
def test_a_new_one_is_its_base_told_its_prompt_after_zeros(tmp_path, base):
    method, given = made(tmp_path / "f", base), batch(base)
    taken = method.network.fuse_token_former.count
    nobody_yet = torch.zeros(2, taken, WIDTH)
    text = torch.cat([nobody_yet, given["text"]], dim=1)[:, : TOKENS[base]]
    beside = None
    if base == WITH_PICTURE:
        beside = torch.zeros_like(given["latents"])
        beside[:, :, 0] = given["reference_latents"]
    bare = load_video_network(method.recipe.base)
    with torch.no_grad():
        expected = ask(bare, given["latents"], AT, text, beside=beside)
    torch.testing.assert_close(asked(method, given), expected)


@BOTH
def test_turned_off_it_is_its_base_bit_for_bit_whoever_is_asked_for(tmp_path, base):
    method, given = moved(made(tmp_path / "f", base)).eval(), batch(base)
    bare = load_video_network(method.recipe.base)
    beside = torch.zeros_like(given["latents"]) if base == WITH_PICTURE else None
    with torch.no_grad():
        expected = ask(bare, given["latents"], AT, given["text"], beside=beside)
    assert not torch.equal(asked(method, given), expected)
    with method.adapter_off():
        assert torch.equal(asked(method, given), expected)
    assert not torch.equal(asked(method, given), expected)
    off = [drawn(method, whom(seed=seed, base=base), scale=0.0) for seed in (0, 1)]
    assert torch.equal(*off)


def test_whom_drop_leaves_out_is_the_base_bit_for_bit_beside_somebody(tmp_path):
    drop = DropSettings(identity=0.5, text=0.0, both=0.0)
    method, given = moved(made(tmp_path / "f", drop=drop)).eval(), batch(COGVIDEOX)
    whole, yes = method.conditions.whole(given), torch.tensor([True, False])
    told = method.conditions.without(whole, yes, ~yes | yes)
    with torch.no_grad():
        left = method._predict(given["latents"], AT, told | {"text": whole["text"]})
        with method.adapter_off():
            base = method._predict(given["latents"], AT, whole)
    torch.testing.assert_close(left[0], base[0], atol=0, rtol=0)
    torch.testing.assert_close(left[1], asked(method, given)[1])
    assert not torch.equal(left[1], base[1])


def test_each_thing_that_is_told_of_a_person_changes_the_prediction(tmp_path):
    method, given = moved(made(tmp_path / "f", WITH_PICTURE)).eval(), batch(WITH_PICTURE)
    before = asked(method, given)
    for name in ("identity", "face_pooled", "face_states", "attributes_text", "reference_latents"):
        other = given | {name: given[name].flip(0)}
        assert (asked(method, other) - before).abs().max() > 1e-3, name


@WHOLE
def test_all_that_is_trained_gets_gradients_and_nothing_else(tmp_path, trained):
    method = moved(made(tmp_path / "f", trained=trained)).train()
    method(batch(COGVIDEOX))["loss"].backward()
    mine = method.trainable()
    moving = {name for name, weight in method.named_parameters() if weight.grad is not None}
    assert moving == set(mine)
    assert [name for name, weight in mine.items() if not weight.grad.any()] == []
    added = {name for name in mine if name.removeprefix("network.").startswith(ADDED)}
    assert (added == set(mine)) == (trained == "added")
    assert method._gives().base == (trained == "added")


@WHOLE
def test_checkpointing_of_gradients_changes_no_gradient_however_often_it_asks(tmp_path, trained):
    gradients = []
    for scale in (Scale(), Scale(gradient_checkpointing=True)):
        method = moved(made(tmp_path / "f", trained=trained, scale=scale)).train()
        given = batch(COGVIDEOX)
        first = method(given)["loss"]
        second = method(given | {"identity": given["identity"].flip(0)})["loss"]
        (first + 2 * second).backward()
        gradients.append([weight.grad for weight in method.trainable().values()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again, atol=1e-6, rtol=1e-4)


@WHOLE
def test_an_export_draws_the_same_video_and_has_the_original_s_names(tmp_path, trained):
    method, who = moved(made(tmp_path / "f", trained=trained)), whom()
    method.save(tmp_path / "export")
    again = load_export(tmp_path / "export")
    assert torch.equal(drawn(method, who), drawn(again, who))
    held = load_file(tmp_path / "export/proteus-id.safetensors")
    assert {
        "fuse_token_former.latents",
        "fuse_token_former.layers.0.0.to_q.weight",
        "fuse_token_former.layers.2.1.to_kv.weight",
        "fuse_token_former.layers.1.2.3.weight",
        "fuse_token_former.mapping_2.6.weight",
        "fuse_token_adapter.feature_mapping.6.bias",
        "fuse_facital_attention.time_embedding.linear_1.weight",
        "fuse_facital_attention.fuse_face_feature.clip_embedding_mapping.0.weight",
        "fuse_facital_attention.connector.time_aware_linear.weight",
        "fuse_facital_attention.connector.perceiver_blocks.1.attn_fuse.in_proj_weight",
        "fuse_facital_attention.connector.perceiver_blocks.0.mlp.c_proj.bias",
        "fuse_facital_attention.connector.perceiver_blocks.0.ln_img.linear.weight",
        "perceiver_cross_attention.0.to_kv.weight",
    } <= set(held)
    assert ("transformer_blocks.1.attn1.to_q.weight" in held) == (trained == "all")


def test_the_card_of_an_export_draws_as_it_says(tmp_path):
    made(tmp_path / "f").save(tmp_path / "export")
    card = (tmp_path / "export/README.md").read_text().replace("steps=30", "steps=2")
    told = {"folder": str(tmp_path / "export"), "identity": whom().identity, "more": whom().more}
    for code in re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL):
        exec(code, told)  # the card's own code
    assert told["videos"].shape == (2, 9, 3, 64, 64)


@pytest.mark.slow
@WHOLE
def test_it_learns_four_clips_by_heart(tmp_path, trained):
    method = made(tmp_path / "f", trained=trained).train()
    given = batch(COGVIDEOX, 4) | {"time": torch.tensor([0.9, 0.8, 0.7, 0.6])}
    optimiser = torch.optim.AdamW(method.trainable().values(), lr=3e-3)
    history = []
    for _ in range(60):
        loss = method(given)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert sum(history[-5:]) / 5 < (0.3 if trained == "all" else 0.8) * history[0]


def test_what_it_cannot_be_made_of_is_said(tmp_path):
    with pytest.raises(BadValue, match=r"grows out of CogVideoX 1\.0"):
        made(tmp_path / "moving", MOVING)
    told = features(COGVIDEOX)
    write_videos(tmp_path / "f", COGVIDEOX, lacks=("face_states", "attributes_text"))
    with pytest.raises(BadValue, match="image encoder of faces"):
        made(tmp_path / "f", told=replace(told, face_states_shape=(0, 0, 0)))
    with pytest.raises(BadValue, match="takes 4 tokens of a prompt"):
        made(tmp_path / "f", told=replace(told, text_shape=(4, WIDTH)))


def test_what_is_not_told_and_who_is_too_many_is_said(tmp_path):
    method, given = made(tmp_path / "f"), batch(COGVIDEOX)
    del given["attributes_text"]
    with pytest.raises(BadValue, match="attributes_text cannot be None: proteus_id is told it"):
        method(given)
    many = batch(COGVIDEOX) | {"identity": torch.ones(2, 3, DIM)}
    with pytest.raises(BadValue, match="'3 faces': proteus_id is shown one face"):
        method(many)


def test_the_recipe_is_of_the_published_base_and_asks_for_all_three_parts():
    ours = published("proteus_id_cogvideox_5b_8xh200")
    assert ours.base.weights == "random:cogvideox-5b-i2v"
    assert ours.video.trained == "all"
    assert (ours.losses.masked, ours.losses.motion, ours.video.mask_share) == (1.0, 1.0, 0.5)
    assert ours.batch == 2 * ours.scale.workers
