from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from infra.errors import BadValue
from tests.training.methods.adapters import (
    DIM,
    FEATURES,
    SD,
    SDXL,
    VARIANTS,
    batch,
    condition,
    drawn,
    learnt_by_heart,
    make,
    moved,
    painted,
    painted_by,
    pipeline,
)
from training.method import Condition
from training.nets.presets import load_unet
from training.settings import DropSettings, LossSettings, MethodSettings, Scale

STANDARD = MethodSettings(identity_norm="standard")
EVERYBODY = pytest.mark.parametrize("variant", VARIANTS)


@pytest.mark.parametrize(
    ("variant", "base"), [*((name, SD) for name in VARIANTS), ("plus V2 with LoRA", SDXL)]
)
def test_only_the_adapter_gets_gradients_and_all_of_it_does(tmp_path, variant, base):
    method = moved(make(tmp_path, VARIANTS[variant], base=base))
    method(batch())["loss"].backward()
    trained = {name for name, p in method.named_parameters() if p.grad is not None}
    assert trained == set(method.trainable())
    assert all(weight.grad.abs().sum() > 0 for weight in method.trainable().values())
    assert all(
        any(part in name for part in ("image_projection_layers", "_ip.", "lora_"))
        for name in trained
    )


def test_checkpointing_and_memory_layout_change_no_gradient(tmp_path):
    gradients = []
    for scale in (Scale(), Scale(gradient_checkpointing=True, channels_last=True)):
        method = moved(make(tmp_path, VARIANTS["plus V2 with LoRA"], scale=scale)).train()
        method(batch())["loss"].backward()
        gradients.append([weight.grad for weight in method.trainable().values()])
    for plain, tuned in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, tuned, rtol=1e-3, atol=1e-5)


def test_keys_and_values_begin_as_copies_of_the_text_s(tmp_path):
    unet = make(tmp_path).unet
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    assert torch.equal(attention.processor.to_k_ip[0].weight, attention.to_k.weight)
    assert torch.equal(attention.processor.to_v_ip[0].weight, attention.to_v.weight)


@EVERYBODY
def test_eight_samples_are_learnt_by_heart(tmp_path, variant):
    history = learnt_by_heart(make(tmp_path, VARIANTS[variant]), 2e-2)
    assert history[-1] < 0.7 * history[0], history[::10]


def test_an_image_that_is_looked_at_changes_the_picture(tmp_path):
    method = moved(make(tmp_path, VARIANTS["plus"]))
    asked = condition(method)
    other = replace(asked, image=drawn(*asked.image.shape, seed=50))
    assert not torch.equal(painted(method, asked), painted(method, other))
    with pytest.raises(BadValue, match="looks at the reference faces too"):
        painted(method, replace(asked, image=None))


def test_several_reference_faces_are_looked_at_together(tmp_path):
    method = moved(make(tmp_path, VARIANTS["portrait"]))
    asked = condition(method)
    one = replace(asked, identity=asked.identity[:, 0])
    thrice = replace(asked, identity=asked.identity[:, :1].expand(-1, 3, -1))
    assert torch.allclose(painted(method, one), painted(method, thrice), atol=1e-5)
    assert not torch.allclose(painted(method, asked), painted(method, thrice), atol=1e-3)
    backwards = replace(asked, identity=asked.identity.flip(1))
    assert torch.allclose(painted(method, asked), painted(method, backwards), atol=1e-5)


def test_a_dropped_identity_is_forgotten_and_a_kept_one_is_not(tmp_path):
    method = moved(make(tmp_path, drop=DropSettings(identity=1.0, text=0.0, both=0.0)))
    given, other = batch(), batch() | {"identity": batch(seed=9)["identity"]}
    for draw, same in ((0.5, True), (1.0, False)):
        drop = torch.full((2,), draw)
        losses = [method({**one, "drop": drop})["loss"].item() for one in (given, other)]
        assert (losses[0] == losses[1]) is same


@EVERYBODY
def test_what_is_ejected_is_the_base_as_it_was(tmp_path, variant):
    base = load_unet(SD)
    ejected = moved(make(tmp_path, VARIANTS[variant])).eject()
    assert repr(ejected) == repr(base)
    assert list(ejected.state_dict()) == list(base.state_dict())
    assert all(map(torch.equal, ejected.state_dict().values(), base.state_dict().values()))
    assert all(p.requires_grad for p in ejected.parameters())
    given = batch()
    with torch.no_grad():
        was, now = (
            unet(given["latents"], 5, given["text"], return_dict=False)[0]
            for unet in (base, ejected)
        )
    assert torch.equal(was, now)


@EVERYBODY
def test_without_the_adapter_the_base_s_own_picture_is_painted(tmp_path, variant):
    method = moved(make(tmp_path, VARIANTS[variant]))
    off = painted(method, scale=0.0)
    assert (off - painted_by(pipeline(), method, adapter=False)).abs().max() < 1e-5
    given, asked = batch(), condition(method)
    of = method.conditions
    told = of.whole(asked.identity, image=asked.image, text=asked.text, pooled=None)
    times = torch.tensor([5, 9])
    with torch.no_grad(), method.adapter_off():
        ours = method._predict(given["latents"], times, told, None)
        theirs = load_unet(SD)(given["latents"], times, asked.text).sample
    assert torch.equal(ours, theirs)
    assert not torch.equal(off, painted(method))


def test_identity_waits_for_its_first_step(tmp_path):
    method = moved(make(tmp_path))
    asked = condition(method)
    other = replace(asked, identity=drawn(2, DIM, seed=50))
    late = [painted(method, one, start_step=3) for one in (asked, other)]
    assert torch.equal(*late)
    assert not torch.equal(painted(method, asked, start_step=2), late[0])
    assert not torch.equal(painted(method, asked, start_step=2), painted(method, asked))


def test_a_negative_prompt_takes_the_empty_one_s_place(tmp_path):
    method = moved(make(tmp_path, base=SDXL))
    asked = condition(method)
    held = method.conditions
    same = replace(
        asked,
        negative_text=held.empty_text.expand(2, -1, -1),
        negative_pooled=held.empty_pooled.expand(2, -1),
    )
    assert torch.equal(painted(method, same), painted(method, asked))
    other = replace(same, negative_text=drawn(2, *held.empty_text.shape, seed=51))
    assert not torch.equal(painted(method, other), painted(method, asked))


def test_no_prompt_is_the_empty_prompt(tmp_path):
    method = moved(make(tmp_path))
    asked = condition(method)
    silent = replace(asked, text=None)
    said = replace(asked, text=method.conditions.empty_text.expand(2, -1, -1))
    assert torch.equal(painted(method, silent), painted(method, said))


@pytest.mark.parametrize(
    "other", [{"pooled": drawn(2, 32, seed=60)}, {"size": torch.full((2, 6), 32.0)}]
)
def test_sdxl_s_added_conditions_are_looked_at(tmp_path, other):
    method = moved(make(tmp_path, base=SDXL))
    assert method(batch())["loss"] != method(batch() | other)["loss"]


def test_the_identity_loss_reaches_the_adapter_and_counts_only_who_was_asked_for(tmp_path):
    losses = LossSettings(mse=0.0, identity=1.0)
    shares = DropSettings(identity=0.5, text=0.0, both=0.0)
    method = make(tmp_path, losses=losses, drop=shares)
    clear = batch() | {"time": torch.tensor([0.05, 0.1])}
    told = method(clear)
    told["loss"].backward()
    assert told["identity"] > 0
    assert any(weight.grad.abs().sum() > 0 for weight in method.trainable().values())
    assert method({**clear, "drop": torch.zeros(2)})["identity"] == 0


def test_features_without_text_can_be_trained_on(tmp_path):
    method = make(tmp_path, features=replace(FEATURES, text_shape=(0, 0)))
    given = batch()
    del given["text"], given["pooled"]
    assert method(given)["loss"].isfinite()
    assert painted(method, Condition(given["identity"])).shape == (2, 3, 64, 64)
    with pytest.raises(BadValue, match="trained without text"):
        painted(method, condition(method))


def test_a_module_cast_to_bfloat16_still_takes_float32_batches(tmp_path):
    method = moved(make(tmp_path, STANDARD)).to(torch.bfloat16)
    told = method(batch())
    told["loss"].backward()
    assert told["loss"].dtype == torch.float32
    assert painted(method).dtype == torch.float32


def test_a_base_without_cross_attention_is_refused(tmp_path):
    UNet2DConditionModel(
        block_out_channels=(32, 32), norm_num_groups=8, layers_per_block=1, mid_block_type=None,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        cross_attention_dim=32,
    ).save_pretrained(tmp_path / "base")  # fmt: skip
    with pytest.raises(BadValue, match=r"no cross-attention .* give a text-to-image base"):
        make(tmp_path, base=f"file:{tmp_path}/base")


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"latent_shape": (12, 16, 16)}, "this base's codec and text encoder"),
        ({"text_shape": (77, 768)}, "this base's codec and text encoder"),
        ({"pooled_dim": 7}, "0 numbers of pooled text, and the features have 7"),
    ],
)
def test_features_of_another_base_are_refused(tmp_path, other, why):
    with pytest.raises(BadValue, match=why):
        make(tmp_path, features=replace(FEATURES, **other))


def test_plus_without_image_states_is_refused(tmp_path):
    with pytest.raises(BadValue, match="prepare the features with an image encoder"):
        make(tmp_path, VARIANTS["plus"], features=replace(FEATURES, image_shape=(0, 0)))
