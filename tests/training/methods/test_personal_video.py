"""PersonalVideo: one person, learnt from photographs by rewarding what is drawn."""

from dataclasses import replace

import pytest
import torch

from infra.errors import BadValue
from tests.training.conftest import write_features
from tests.training.many import train
from tests.training.methods.adapters import moved
from tests.training.methods.subjects import carded
from tests.training.methods.test_id_animator import pipeline
from tests.training.videos import BASES, COGVIDEOX, MOVING, WIDTH, recipe, write_videos
from training.build import build, load_export, make_method
from training.checkpoints import latest
from training.features import Prepared
from training.method import Condition, Sampling
from training.nets.text import load_text_encoder
from training.nets.video_base import ask
from training.nets.video_presets import load_video_network
from training.noise import STEPS
from training.settings import (
    DropSettings,
    LossSettings,
    MethodSettings,
    OptimiserSettings,
    Scale,
    VideoSettings,
)  # fmt: skip
from training.video.prompts import PROMPTS

HOW = MethodSettings(kind="personal_video", lora_rank=2)
REWARD = LossSettings(mse=0.0, reward=1.0, reward_steps=2, video_identity_frames=2)
FRAMES, DIM = 3, 128
FACE = torch.tensor([[42, 28], [37, 28], [22, 28], [27, 28], [32, 40.0]])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Of one person, prepared as pictures, with the text encoder of the base."""
    folder = tmp_path_factory.mktemp("personal") / "photographs"
    return write_features(
        folder, people=1, photos=4, shape=(4, 16, 16), dim=DIM, text=(77, WIDTH),
        codec="random:tiny-sd",
    )  # fmt: skip


def asked(folder, **changes):
    how = {"method": HOW, "losses": REWARD, "video": VideoSettings(frames=FRAMES)} | changes
    return recipe(folder, **how)


@pytest.fixture
def made(photographs):
    def make(**changes):
        return make_method(asked(photographs, **changes), Prepared(photographs))

    return make


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(count=2, seed=0):
    """Photographs, as they are read; noise and times are of clips."""
    rng = torch.Generator().manual_seed(seed)
    identity = 0.1 * torch.randn(count, DIM, generator=rng)
    return {
        "latents": torch.randn(count, 4, 16, 16, generator=rng),
        "noise": torch.randn(count, 4, FRAMES, 16, 16, generator=rng),
        "time": torch.rand(count, generator=rng), "drop": torch.rand(count, generator=rng),
        "landmarks": FACE.expand(count, 5, 2), "progress": torch.zeros(count),
        "identity": identity, "target_identity": identity,
    }  # fmt: skip


def video(method, **how):
    who = Condition(torch.zeros(1, DIM), text=drawn(1, 77, WIDTH, seed=3))
    rng = torch.Generator().manual_seed(7)
    return method.eval().generate(who, rng, Sampling(**({"steps": 4, "guidance": 2.0} | how)))


def test_its_loss_is_the_distance_of_the_faces_in_the_video_that_it_draws(made):
    method, given = moved(made()), batch()
    losses = method(given)
    text = method.text[(given["drop"] * len(PROMPTS)).long()]
    told, schedule = {"text": text}, method.schedule
    still = given["latents"][:, :, None].expand(-1, -1, FRAMES, -1, -1)
    first, last = torch.tensor([800, 800]), (given["time"] * 250).long()
    z_t = schedule.noised(still, given["noise"], first / STEPS).z_t
    clean = schedule.clean(z_t, first, method._predict(z_t, first, told))
    z_t = schedule.moved(z_t, first, clean, last)
    frames = method.frames(schedule.clean(z_t, last, method._predict(z_t, last, told)))
    at = torch.stack([torch.tensor([0, 1.5]) + 1.5 * turn for turn in (given["time"] * 1000) % 1])
    looked = torch.stack([frames[i, at[i].long()] for i in range(2)]).flatten(0, 1)
    tools = method.objective.tools
    vectors = tools.identity.vectors(looked, FACE.expand(4, 5, 2))
    far = tools.identity.apart(vectors, given["target_identity"].repeat_interleave(2, dim=0))
    torch.testing.assert_close(losses["loss"], far.mean(), rtol=1e-4, atol=1e-5)


def test_attention_within_frames_alone_is_trained_and_all_of_it(made):
    method = moved(made()).train()
    method(batch())["loss"].backward()
    trained = {name for name, weight in method.named_parameters() if weight.grad is not None}
    assert trained == set(method.trainable())
    assert all(weight.grad.abs().sum() > 0 for weight in method.trainable().values())
    assert not [name for name in trained if "motion_modules" in name]
    layers = [n for n in method.network.attn_processors if "motion_modules" not in n]
    assert len(trained) == 2 * 4 * len(layers)


def test_turned_off_it_is_the_base_bit_for_bit(made):
    method, t = moved(made()).eval(), torch.tensor([500, 20])
    z_t, text = drawn(2, 4, FRAMES, 16, 16), drawn(2, 77, WIDTH, seed=3)
    base = ask(load_video_network(BASES[MOVING]), z_t, t, text)
    with method.adapter_off():
        assert torch.equal(method._predict(z_t, t, {"text": text}), base)
    assert not torch.allclose(method._predict(z_t, t, {"text": text}), base, atol=1e-3)


def test_it_is_the_base_until_the_last_of_the_drawing_sample_by_sample(made):
    method = moved(made(video=VideoSettings(frames=FRAMES, late_share=0.25))).eval()
    z_t, text = drawn(3, 4, FRAMES, 16, 16), drawn(3, 77, WIDTH, seed=3)
    mixed, t = torch.tensor([250, 249, 900]), method._predict
    got = t(z_t, mixed, {"text": text})
    with method.adapter_off():
        base = t(z_t, mixed, {"text": text})
    torch.testing.assert_close(got[[0, 2]], base[[0, 2]], atol=0, rtol=0)
    alone = t(z_t[1:2], mixed[1:2], {"text": text[1:2]})
    torch.testing.assert_close(got[1:2], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(got[1], base[1], atol=1e-3)


def test_of_a_reward_s_drawing_the_first_calls_are_the_base_s(made):
    method, given = moved(made(video=VideoSettings(frames=FRAMES, late_share=0.25))), batch()
    tell, used = method.lora.told, []
    method.lora.told = lambda strength, frames: (
        used.append(strength.tolist()) or tell(strength, frames=frames)
    )
    method(given)
    assert used[1:] == [[0.0, 0.0], [1.0, 1.0]]


@pytest.mark.slow
def test_what_is_not_descended_holds_no_graph_and_changes_no_gradient(made):
    gradients = []
    for mse in (0.0, 1e-30):
        method = moved(made(losses=replace(REWARD, mse=mse))).train()
        losses = method(batch())
        assert losses["mse"] > 0
        losses["loss"].backward()
        gradients.append([weight.grad for weight in method.trainable().values()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_checkpointing_of_gradients_changes_no_gradient(made):
    """A LoRA that is turned on by time would be computed again at another time's strength."""
    gradients = []
    for scale in (Scale(), Scale(gradient_checkpointing=True)):
        late = VideoSettings(frames=FRAMES, late_share=0.25)
        losses = replace(REWARD, mse=1.0, reward_gradient_steps=2)
        method = moved(made(scale=scale, video=late, losses=losses)).train()
        method(batch())["loss"].backward()
        gradients.append([weight.grad for weight in method.trainable().values()])
    for plain, tuned in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, tuned, rtol=1e-3, atol=1e-5)


class Colours:
    """Compares people who are colours: a random autoencoder draws no faces."""

    same_person_at = 1.0

    def vectors(self, pictures, _):
        self.seen = pictures.mean(dim=(2, 3))
        return self.seen

    def apart(self, one, other):
        return (one - other).square().sum(dim=-1)


@pytest.mark.slow
def test_what_is_drawn_of_four_photographs_comes_nearer_to_the_person(made):
    method, given = made().train(), batch(count=4)
    method.objective.tools.identity = eye = Colours()
    given |= {name: given[name][..., :8, :8] for name in ("latents", "noise")}
    given |= {"target_identity": torch.zeros(4, 3), "time": torch.full((4,), 0.99)}
    method(given)
    # Somebody whom this autoencoder can draw: a little redder than who is drawn.
    given["target_identity"] = (
        eye.seen.detach().mean(dim=0) + torch.tensor([0.02, -0.02, 0])
    ).repeat(4, 1)
    optimiser = torch.optim.AdamW(method.trainable().values(), lr=2e-2)
    history = []
    for _ in range(12):
        loss = method(given)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < 0.8 * history[0], [round(loss, 4) for loss in history]


def test_photographs_are_enough_to_train_and_to_draw(photographs, tmp_path):
    ours = asked(photographs, steps=2, batch=2, microbatch=1, save_every=2)
    (micro, _) = build(ours).batches.micro(0)
    assert micro["latents"].shape[1:] == (4, 16, 16)
    assert micro["noise"].shape[1:] == (4, FRAMES, 16, 16)
    train(replace(ours, optimiser=OptimiserSettings(learning_rate=1e-2)), tmp_path)
    again = load_export(latest(tmp_path) / "export")
    assert video(again).shape == (1, FRAMES, 3, 64, 64)
    assert again.features.frames == FRAMES


@pytest.mark.slow
def test_half_precision_is_close_to_full(photographs, tmp_path):
    ours = asked(photographs, steps=2, batch=2, microbatch=2)
    half = train(replace(ours, scale=Scale(precision="bf16")), tmp_path / "half")
    full = train(ours, tmp_path / "full")
    assert half["losses"] == pytest.approx(full["losses"], rel=0.02)
    assert half["losses"] != full["losses"]


@pytest.mark.slow
def test_clips_are_taken_as_they_are(tmp_path):
    folder = write_videos(tmp_path / "clips", people=1, clips=4)
    method = make_method(asked(folder, video=VideoSettings()), Prepared(folder))
    (micro,) = build(asked(folder, video=VideoSettings())).batches.micro(0)
    assert method._clips(micro) is micro
    assert method.features.frames == 4


def test_each_sample_is_asked_for_with_a_prompt_of_its_own_whatever_its_caption(made):
    method, told = made(), []
    method._predict = lambda z_t, t, given: told.append(given["text"]) or 0 * z_t  # noqa: ARG005
    method(batch() | {"drop": torch.tensor([0.0, 0.999]), "text": drawn(2, 77, WIDTH)})
    encoder = load_text_encoder("random:tiny-sd")
    first, last = (encoder.encode([PROMPTS[i].format("person")])[0][0] for i in (0, -1))
    assert len(told) == 3
    for text in told:
        torch.testing.assert_close(text, torch.stack([first, last]))


def test_with_a_scorer_the_frames_are_preferred_as_the_base_s_are(made):
    losses = replace(REWARD, reward_scorer="random:tiny-clip", reward_semantic=1.0)
    method = made(losses=losses)
    # A LoRA begins as nothing, and draws what the base draws.
    assert method(batch())["reward_semantic"].item() == pytest.approx(0, abs=1e-5)
    told = moved(method)(batch())
    assert told["reward_semantic"] < 0
    by_hand = -told["reward_identity"] - told["reward_semantic"]
    torch.testing.assert_close(told["loss"], by_hand)
    scorer = method.objective.tools.aesthetic
    last = batch() | {"drop": torch.full((2,), 0.999)}
    seen = []
    method.objective.tools.watch = {
        "w": lambda p, b: seen.append(b["clip_text"]) or p.mean((1, 2, 3))
    }
    method(last)
    wanted = scorer.vectors([PROMPTS[-1].format("person")])
    torch.testing.assert_close(seen[0], wanted.expand(4, -1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"method": replace(HOW, lora_rank=0)}, r"method\.lora_rank .* give 1 or more"),
        ({"drop": DropSettings()}, "learns from whole drawings"),
        ({"video": VideoSettings()}, r"video\.frames .* photographs were prepared"),
    ],
)
def test_settings_that_cannot_work_are_refused(made, changes, why):
    with pytest.raises(BadValue, match=why):
        made(**changes)


def test_bases_and_features_that_do_not_fit_are_refused(tmp_path):
    folder = write_videos(tmp_path / "cog", COGVIDEOX, people=1, clips=1)
    ours = recipe(folder, COGVIDEOX, method=HOW)
    with pytest.raises(BadValue, match="needs motion modules apart from the rest"):
        make_method(ours, Prepared(folder))
    mute = write_videos(tmp_path / "mute", people=1, clips=1, text=False)
    with pytest.raises(BadValue, match="prepare with the base's text encoder"):
        make_method(recipe(mute, method=HOW), Prepared(mute))


# The export.


def test_an_export_alone_draws_what_was_saved_and_reads_no_prompts(made, tmp_path):
    gone = VideoSettings(frames=FRAMES, late_share=0.5, prompts=str(tmp_path / "prompts.txt"))
    (tmp_path / "prompts.txt").write_text("a {} asleep\n")
    method = moved(made(video=gone))
    method.save(tmp_path / "export")
    (tmp_path / "prompts.txt").unlink()
    again = load_export(tmp_path / "export")
    assert torch.equal(video(again), video(method))


@pytest.mark.parametrize("late", [pytest.param(1.0, marks=pytest.mark.slow), 0.5])
def test_as_its_card_says_diffusers_loads_it_and_draws_the_same_frames(made, tmp_path, late):
    method = moved(made(video=VideoSettings(frames=FRAMES, late_share=late)))
    method.save(tmp_path / "export")
    pipe = pipeline()
    told = carded(tmp_path / "export", pipe=pipe, identity=torch.zeros(1, DIM))
    assert told["videos"].shape == (1, FRAMES, 3, 64, 64)
    noise, text = drawn(1, 4, FRAMES, 16, 16, seed=7), drawn(1, 77, WIDTH, seed=3)
    for _ in range(2):
        theirs = pipe(
            prompt_embeds=text, negative_prompt_embeds=method.conditions.empty_text[None],
            latents=noise, num_frames=FRAMES, height=64, width=64, num_inference_steps=4,
            guidance_scale=2.0, output_type="pt", callback_on_step_end=told["late"],
        ).frames  # fmt: skip
        torch.testing.assert_close(theirs[0], video(method)[0], atol=1e-5, rtol=0)
