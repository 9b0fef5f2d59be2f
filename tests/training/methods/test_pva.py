import re
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline, UNet2DConditionModel

from infra.errors import BadValue, BadWeights
from tests.training.methods.adapters import DIM, SD, drawn, moved
from tests.training.methods.subjects import FEATURES, batch, learnt, make, painted, pipeline
from training.build import load_export
from training.method import Condition
from training.methods.pva import PVA
from training.nets.codec import decoded
from training.nets.inpainting import around_hole, grown, inpainting
from training.nets.presets import UNETS, load_vae
from training.settings import DropSettings, MethodSettings

KIND = MethodSettings(kind="pva")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny inpainting UNet, as a folder."""
    folder = tmp_path_factory.mktemp("base")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        unet = UNet2DConditionModel.from_config({**UNETS["tiny-sd"], "in_channels": 9})
    unet.save_pretrained(folder / "unet")
    return f"file:{folder}"


def made(folder, base, method=KIND, **more):
    return make(folder, PVA, method, base=base, **({"drop": DropSettings()} | more))


def shown(count=2, seed=0):
    """A picture each, a hole in it, and somebody to paint there."""
    mask = torch.zeros(count, 16, 16)
    mask[:, 4:12, 4:12] = 1
    return Condition(
        drawn(count, DIM, seed=2), source=drawn(count, 4, 16, 16, seed=3 + seed), mask=mask
    )


def given(seed=0):
    told = batch(8, seed)
    told["mask"] = torch.zeros(8, 8, 8)
    told["mask"][:, 3:5, 3:5] = 1
    del told["is_prior"]
    return told


def test_tokens_keys_and_values_are_trained_and_all_of_them(tmp_path, base):
    method = made(tmp_path, base)
    method(given())["loss"].backward()
    trained = {name for name, weight in method.named_parameters() if weight.grad is not None}
    assert trained == set(method.trainable())
    assert not any("lora" in name for name in trained)


@pytest.mark.slow
def test_a_handful_of_samples_is_learnt_by_heart(tmp_path, base):
    history = learnt(made(tmp_path, base), given(), 2e-2, steps=50)
    assert history[-1] < 0.8 * history[0], history[::5]


@torch.no_grad()
def test_the_network_is_told_the_hole_and_the_picture_with_grey_in_it(tmp_path, base):
    method, told = made(tmp_path, base).eval(), given()
    seen = []
    hook = method.unet.conv_in.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    method(told)
    hook.remove()
    noised = method.schedule.noised(told["latents"], told["noise"], told["time"])
    hole = torch.zeros(8, 8, 8)
    hole[:, 2:6, 2:6] = 1
    picture = decoded(method.codec, told["latents"])
    picture[:, :, 8:24, 8:24] = 0.5
    wanted = torch.cat([noised.z_t, hole[:, None], method.codec.encode(picture)], dim=1)
    assert torch.allclose(seen[0], wanted, atol=1e-6)


@torch.no_grad()
def test_what_was_in_the_hole_is_never_seen(tmp_path, base):
    method, hole = made(tmp_path, base), torch.zeros(1, 8, 8)
    hole[:, 2:6, 2:6] = 1
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    other = picture.clone()
    other[:, :, 8:24, 8:24] = 0.9
    # Two codes whose pictures differ in the hole alone cannot be had: ask of the pictures.
    codec = method.codec
    decode, codec.decode = codec.decode, lambda latents: picture if latents.sum() > 0 else other
    told = [around_hole(codec, torch.full((1, 4, 8, 8), sign), hole) for sign in (1.0, -1.0)]
    codec.decode = decode
    assert torch.equal(told[0], told[1])


def test_a_hole_is_one_latent_wider_than_the_face():
    mask = torch.zeros(1, 5, 5)
    mask[:, 2, 2] = 1
    wanted = torch.zeros(1, 5, 5)
    wanted[:, 1:4, 1:4] = 1
    assert torch.equal(grown(mask), wanted)


def test_without_anything_to_paint_the_picture_stays(tmp_path, base):
    method, asked = moved(made(tmp_path, base)).eval(), shown()
    whole = replace(asked, mask=torch.zeros(2, 16, 16))
    assert torch.equal(painted(method, whole), decoded(method.codec, asked.source))
    assert (painted(method, asked) - painted(method, whole)).abs().max() > 0.1


def test_the_person_is_told_and_can_be_left_out(tmp_path, base):
    method, asked = moved(made(tmp_path, base)).eval(), shown()
    nobody = [painted(method, replace(asked, identity=identity), scale=0.0)
              for identity in (asked.identity, drawn(2, DIM, seed=9))]  # fmt: skip
    assert torch.equal(*nobody)
    assert not torch.equal(painted(method, asked), nobody[0])


def test_taken_out_it_leaves_the_base_bit_for_bit(tmp_path, base):
    method = moved(made(tmp_path, base))
    method(given())
    painted(method, shown())
    plain = UNet2DConditionModel.from_pretrained(base.removeprefix("file:") + "/unet")
    unet = method.eject()
    assert repr(unet) == repr(plain)
    assert all(torch.equal(w, plain.state_dict()[name]) for name, w in unet.state_dict().items())
    assert not unet.conv_in._forward_pre_hooks


@pytest.mark.parametrize("missing", ["source", "mask"])
def test_without_a_picture_or_a_hole_it_refuses(tmp_path, base, missing):
    with pytest.raises(BadValue, match=rf"condition\.{missing}.*pva paints into a picture"):
        painted(made(tmp_path, base), replace(shown(), **{missing: None}))


def test_a_base_that_paints_no_holes_is_refused(tmp_path, base):
    with pytest.raises(BadValue, match="takes 4 channels, and pva gives 9"):
        made(tmp_path / "a", SD)
    with pytest.raises(BadValue, match="name an inpainting base"):
        made(tmp_path / "b", "")
    with pytest.raises(BadValue, match="prepare them with this base's text encoder"):
        made(tmp_path / "c", base, features=replace(FEATURES, text_shape=(77, 48)))


# Tuning to one person, and the export.


def saved(home, base, **more):
    method = moved(made(home / "features", base, **more), seed=3).eval()
    method.save(home / "export")
    return method


def test_tuning_begins_at_an_export_and_its_own_export_needs_it_no_more(tmp_path, base):
    many = saved(tmp_path, base)
    start = replace(KIND, start=f"file:{tmp_path}/export")
    one = made(tmp_path / "one", base, start)
    assert torch.equal(painted(one, shown()), painted(many, shown()))
    learnt(one, given(), 1e-3, steps=2)
    one.eval().save(tmp_path / "tuned")
    shutil.rmtree(tmp_path / "export")
    shutil.rmtree(tmp_path / "one")
    again = load_export(tmp_path / "tuned")
    assert torch.equal(painted(again, shown()), painted(one, shown()))
    assert not torch.equal(painted(again, shown()), painted(many, shown()))


def test_another_encoder_s_export_is_no_beginning(tmp_path, base):
    saved(tmp_path, base, features=replace(FEATURES, embedder="other@0"))
    start = replace(KIND, start=f"file:{tmp_path}/export")
    with pytest.raises(BadWeights, match="for unit vectors of other@0"):
        made(tmp_path / "one", base, start)


@torch.no_grad()
def test_an_inpainting_pipeline_loads_it_and_predicts_the_same(tmp_path, base):
    method, parts = saved(tmp_path, base), pipeline().components
    plain = UNet2DConditionModel.from_pretrained(base.removeprefix("file:") + "/unet")
    pipe = StableDiffusionInpaintPipeline(
        **(parts | {"unet": plain, "vae": load_vae(SD)}), requires_safety_checker=False
    )
    pipe.load_ip_adapter(
        tmp_path / "export", subfolder="", weight_name="ip-adapter-faceid.safetensors",
        image_encoder_folder=None,
    )  # fmt: skip
    asked, z_t, text = shown(), drawn(2, 4, 16, 16, seed=4), drawn(2, 77, 32, seed=5)
    around = around_hole(method.codec, asked.source, asked.mask)
    faces = method.conditions.whole(asked.identity, image=None, text=None, pooled=None)
    faces = replace(faces, text=text)
    t = torch.tensor([500, 500])
    with inpainting(method.unet, around):
        ours = method._predict(z_t, t, faces, None)
    theirs = pipe.unet(
        torch.cat([z_t, around], dim=1), t, text,
        added_cond_kwargs={"image_embeds": [faces.faces]},
    ).sample  # fmt: skip
    assert (ours - theirs).abs().max() < 1e-5
    assert (ours - theirs.roll(1, 0)).abs().max() > 1e-3


def test_the_model_card_loads_it_as_it_says(tmp_path, base):
    saved(tmp_path, base)
    asked, parts = shown(), pipeline().components
    plain = UNet2DConditionModel.from_pretrained(base.removeprefix("file:") + "/unet")
    told = {
        "folder": str(tmp_path / "export"),
        "pipe": StableDiffusionInpaintPipeline(
            **(parts | {"unet": plain}), requires_safety_checker=False
        ),
    } | {name: getattr(asked, name) for name in ("identity", "source", "mask")}
    text = (tmp_path / "export/README.md").read_text().replace("steps=30", "steps=2")
    for code in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(code, told)  # the card's own code
    assert told["pictures"].shape == (2, 3, 64, 64)
    assert told["pipe"].unet.encoder_hid_proj is not None
