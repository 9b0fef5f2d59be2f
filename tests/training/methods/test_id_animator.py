"""ID-Animator: what it adds, what it leaves alone, and what AnimateDiff's pipeline reads of it."""

from dataclasses import replace

import pytest
import torch
from diffusers import AnimateDiffPipeline, DDIMScheduler
from diffusers.models.unets.unet_motion_model import MotionAdapter
from transformers import CLIPTextConfig, CLIPTextModel

from infra.errors import BadValue
from tests.training.methods.adapters import moved
from tests.training.methods.subjects import carded
from tests.training.videos import (
    BASES,
    COGVIDEOX,
    DIM,
    IMAGE,
    MOVING,
    WIDTH,
    batch,
    features,
    recipe,
    write_videos,
)  # fmt: skip
from training.build import build, load_export
from training.features import Features
from training.method import Condition, Sampling
from training.methods.id_animator import IDAnimator
from training.nets.presets import load_unet, load_vae
from training.nets.references import seeded
from training.nets.video_base import ask
from training.nets.video_presets import MOTIONS, load_video_network
from training.settings import DropSettings, MethodSettings, Scale

PLAIN = MethodSettings(kind="id_animator", tokens=3)
WITH_LORA = replace(PLAIN, lora_rank=2)
EITHER = pytest.mark.parametrize("how", [PLAIN, WITH_LORA], ids=["plain", "LoRA"])
SELDOM_PLAIN = pytest.mark.parametrize(
    "how",
    [pytest.param(PLAIN, marks=pytest.mark.slow, id="plain"), pytest.param(WITH_LORA, id="LoRA")],
)
"""Where one with a LoRA has all that a plain one has."""


@pytest.fixture
def made(tmp_path):
    def make(how=PLAIN, **changes):
        folder = tmp_path / f"features-{len(list(tmp_path.iterdir()))}"
        write_videos(folder, MOVING)
        return IDAnimator(recipe(folder, method=how, **changes), Features.read(folder), folder)

    return make


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whom(count=2, seed=0):
    image = drawn(count, *IMAGE, seed=seed)
    return Condition(drawn(count, DIM), text=drawn(count, 77, WIDTH, seed=3), image=image)


def video(method, who, **how):
    rng = torch.Generator().manual_seed(7)
    return method.eval().generate(who, rng, Sampling(**({"steps": 3, "guidance": 2.0} | how)))


@EITHER
def test_its_loss_is_the_error_of_the_noise_that_was_added(made, how):
    method, given = moved(made(how)), batch()
    losses = method(given)
    noised = method.schedule.noised(given["latents"], given["noise"], given["time"])
    pred = ask(method.network, noised.z_t, noised.t, given["text"], faces=[given["image"][:, None]])
    torch.testing.assert_close(losses["loss"], (pred - given["noise"]).square().mean())


@SELDOM_PLAIN
def test_the_adapter_alone_is_trained_and_all_of_it(made, how):
    method = moved(made(how)).train()
    method(batch())["loss"].backward()
    trained = {name for name, weight in method.named_parameters() if weight.grad is not None}
    assert trained == set(method.trainable())
    assert all(weight.grad.abs().sum() > 0 for weight in method.trainable().values())


@EITHER
def test_motion_modules_and_attention_within_frames_are_left_as_they_were(made, how):
    """Processors of motion modules stand among the others, which a number alone would miscount."""
    method = made(how)
    told = [name for name in method.trainable() if "_ip." in name]
    assert not [name for name in method.trainable() if "motion" in name]
    assert {name.split(".processor")[0].rsplit(".", 1)[1] for name in told} == {"attn2"}
    plain = load_video_network(BASES[MOVING])
    layers = [n for n in plain.attn_processors if "motion" not in n and "attn2" in n]
    assert len(told) == 2 * len(layers) > 0
    held = dict(plain.named_parameters())
    for name in told:
        layer, _, which = name.removeprefix("network.").partition(".processor.")
        weight = held[f"{layer}.{which[:4]}.weight"]
        assert torch.equal(method.trainable()[name], weight)


@SELDOM_PLAIN
def test_turned_off_it_is_the_base_bit_for_bit(made, how):
    method, given = moved(made(how)).eval(), batch()
    told, t = method.conditions.whole(given), torch.tensor([500, 20])
    base = ask(load_video_network(BASES[MOVING]), given["latents"], t, given["text"])
    with method.adapter_off():
        assert torch.equal(method._predict(given["latents"], t, told), base)
    assert not torch.allclose(method._predict(given["latents"], t, told), base, atol=1e-3)


def test_it_looks_at_the_image_and_not_at_the_vector(made):
    method, who = moved(made()), whom()
    seen = video(method, who)
    assert torch.equal(seen, video(method, replace(who, identity=drawn(2, DIM, seed=9))))
    assert not torch.equal(seen, video(method, replace(who, image=drawn(2, *IMAGE, seed=9))))


@pytest.mark.slow
def test_several_faces_are_looked_at_together_in_no_order(made):
    method, two = moved(made()), drawn(2, 2, *IMAGE, seed=5)
    vectors = drawn(2, 2, DIM)
    who = [replace(whom(), identity=vectors, image=each) for each in (two, two.flip(1))]
    who.append(replace(whom(), image=two[:, 0]))
    both, swapped, first = (video(method, each) for each in who)
    torch.testing.assert_close(both, swapped, atol=1e-5, rtol=0)
    assert not torch.allclose(both, first, atol=1e-3)


def test_a_dropped_face_is_forgotten(made):
    method = moved(made(drop=DropSettings(identity=1.0, text=0.0, both=0.0)))
    given, zeros = batch() | {"drop": torch.zeros(2)}, torch.zeros(2, *IMAGE)
    losses = [method(given | {"image": image})["loss"] for image in (given["image"], zeros)]
    assert torch.equal(*losses)


def test_it_is_shown_another_face_of_the_person_than_the_one_it_draws(tmp_path):
    """The paper's random face reference: who is shown their own frame learns to copy it."""
    folder = write_videos(tmp_path / "videos", people=3, clips=3)
    batches = build(recipe(folder, method=PLAIN)).batches
    prepared = batches.prepared
    for step in range(3):
        (micro,) = batches.micro(step)
        own = prepared.read("identity", batches._order.at(step))
        assert not any(torch.equal(a, b) for a, b in zip(micro["identity"], own, strict=True))


@pytest.mark.slow
def test_checkpointing_of_gradients_changes_no_gradient(made):
    gradients = []
    for scale in (Scale(), Scale(gradient_checkpointing=True)):
        method = moved(made(WITH_LORA, scale=scale)).train()
        method(batch())["loss"].backward()
        gradients.append([weight.grad for weight in method.trainable().values()])
    for plain, tuned in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, tuned, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_four_clips_are_learnt_by_heart(made):
    method, given = made(WITH_LORA).train(), batch(count=4)
    optimiser = torch.optim.AdamW(method.trainable().values(), lr=1e-2)
    history = []
    for _ in range(25):
        loss = method(given)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < 0.8 * history[0], history[::5]


def test_bases_and_features_that_do_not_fit_are_refused(tmp_path):
    folder = write_videos(tmp_path / "cog", COGVIDEOX, people=1, clips=1)
    with pytest.raises(BadValue, match="is an adapter for AnimateDiff"):
        IDAnimator(recipe(folder, COGVIDEOX, method=PLAIN), Features.read(folder), folder)
    with pytest.raises(BadValue, match="prepare the features with an image encoder"):
        IDAnimator(recipe(folder, method=PLAIN), replace(features(), image_shape=(0, 0)), folder)


# The export.


@SELDOM_PLAIN
def test_an_export_alone_draws_what_was_saved(made, tmp_path, how):
    method = moved(made(how))
    method.save(tmp_path / "export")
    again = load_export(tmp_path / "export")
    assert torch.equal(video(again, whom()), video(method, whom()))
    assert torch.equal(video(again, whom(), scale=0.0), video(method, whom(), scale=0.0))


def pipeline():
    """Build AnimateDiff's pipeline around the same base."""
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False,
        timestep_spacing="trailing", steps_offset=1,
    )  # fmt: skip
    text = CLIPTextConfig(
        vocab_size=99, hidden_size=32, intermediate_size=37, num_hidden_layers=1,
        num_attention_heads=4, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    motion = seeded(lambda: MotionAdapter.from_config(MOTIONS["tiny-animatediff"]), 0)
    pipe = AnimateDiffPipeline(
        vae=load_vae(MOVING), text_encoder=CLIPTextModel(text).eval(), tokenizer=None,
        unet=load_unet("random:tiny-sd"), motion_adapter=motion, scheduler=scheduler,
        feature_extractor=None, image_encoder=None,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


@SELDOM_PLAIN
def test_as_its_card_says_diffusers_loads_it_and_draws_the_same_frames(made, tmp_path, how):
    method = moved(made(how))
    method.save(tmp_path / "export")
    pipe, who, empty = pipeline(), whom(), method.conditions.empty_text
    nobody = torch.zeros(1, *IMAGE)
    first = {"identity": who.identity[:1], "image": who.image[:1], "image_nobody": nobody}
    card = carded(tmp_path / "export", pipe=pipe, **first)
    told, noise = features(), drawn(2, 4, 4, 8, 8, seed=7)
    assert card["videos"].shape == (1, told.clip_frames, 3, told.image_px, told.image_px)
    for i, faces in enumerate([card["faces"], [torch.stack([nobody, who.image[1:]])]]):
        theirs = pipe(
            prompt_embeds=who.text[i : i + 1], negative_prompt_embeds=empty[None],
            ip_adapter_image_embeds=faces,
            latents=noise[i : i + 1], num_frames=told.frames, height=told.image_px,
            width=told.image_px, num_inference_steps=3, guidance_scale=2.0, output_type="pt",
        ).frames  # fmt: skip
        torch.testing.assert_close(theirs[0], video(method, who)[i], atol=1e-5, rtol=0)
