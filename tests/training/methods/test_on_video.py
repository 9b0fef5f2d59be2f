"""What every method on a base of videos relies on, tried with the plainest of them."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from infra.errors import BadValue, BadWeights
from tests.training.conftest import write_features
from tests.training.videos import (
    COGVIDEOX,
    DIM,
    MOVING,
    WIDTH,
    batch,
    features,
    recipe,
    write_videos,
)  # fmt: skip
from training.build import METHODS
from training.features import Features
from training.method import Condition, Sampling
from training.methods.on_video import OnVideo
from training.nets.references import seeded
from training.nets.video_base import ask

BOTH = pytest.mark.parametrize("base", [MOVING, COGVIDEOX])
FEW = Sampling(steps=3, guidance=2.0)


class OneWord(OnVideo):
    """Says who it is in one word before the prompt."""

    def __init__(self, recipe, features, folder):
        super().__init__(recipe, features, folder)
        self.project = seeded(lambda: nn.Linear(features.identity_dim, WIDTH, bias=False), 0)
        self.scale = 1.0

    def trainable(self):
        return {f"project.{n}": w for n, w in self.project.named_parameters()}

    @contextmanager
    def strength(self, scale):
        before, self.scale = self.scale, scale
        yield
        self.scale = before

    def _predict(self, z_t, t, told):
        word = self.scale * self.project(told["identity"][:, :1])
        text = told["text"]
        if self.scale:
            text = torch.cat([text[:, :1] + word, text[:, 1:]], dim=1)
        return ask(self.network, z_t, t, text)


@pytest.fixture
def made(tmp_path):
    def make(base, **changes):
        folder = tmp_path / f"features-{len(list(tmp_path.iterdir()))}"
        write_videos(folder, base)
        return OneWord(recipe(folder, base, **changes), Features.read(folder), folder)

    return make


def whom(count=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return Condition(torch.randn(count, DIM, generator=rng))


@BOTH
def test_its_loss_is_the_error_of_what_the_base_should_have_said(made, base):
    method, given = made(base), batch(base)
    losses = method(given)
    noised = method.schedule.noised(given["latents"], given["noise"], given["time"])
    told = method.conditions.whole(given)
    by_hand = (method._predict(noised.z_t, noised.t, told) - noised.target).square().mean()
    torch.testing.assert_close(losses["loss"], by_hand)
    losses["loss"].backward()
    assert all(weight.grad.any() for weight in method.trainable().values())


@BOTH
def test_a_dropped_person_is_nobody_and_dropped_text_the_empty_prompt(made, base):
    method, given = made(base), batch(base)
    whole, yes = method.conditions.whole(given), torch.tensor([True, False])
    left = method.conditions.without(whole, yes, ~yes)
    assert not left["identity"][0].any()
    assert torch.equal(left["identity"][1], whole["identity"][1])
    assert torch.equal(left["text"][0], whole["text"][0])
    assert torch.equal(left["text"][1], method.conditions.empty_text)


@BOTH
def test_a_video_has_the_frames_and_sides_that_were_prepared_and_follows_its_seed(made, base):
    method, told = made(base).eval(), features(base)
    draw = [method.generate(whom(), torch.Generator().manual_seed(seed), FEW) for seed in (0, 0, 1)]
    assert draw[0].shape == (2, told.clip_frames, 3, told.image_px, told.image_px)
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    longer = Sampling(steps=2, frames=told.frames + 2)
    drawn = method.generate(whom(), torch.Generator().manual_seed(0), longer)
    assert drawn.shape[1] == told.clip_frames + (2 if base == MOVING else 8)


@BOTH
def test_at_strength_0_it_is_its_base_bit_for_bit(made, base):
    method = made(base).eval()
    drawn = [
        method.generate(who, torch.Generator().manual_seed(0), Sampling(steps=2, scale=0.0))
        for who in (whom(), whom(seed=1))
    ]
    assert torch.equal(drawn[0], drawn[1])
    with method.adapter_off():
        given = batch(base)
        z_t, t = given["latents"], torch.tensor([500, 20])
        ours = method._predict(z_t, t, method.conditions.whole(given))
        assert torch.equal(ours, ask(method.network, z_t, t, given["text"]))


def test_a_sample_with_its_own_generator_is_the_same_in_any_company(made):
    method, who = made(MOVING).eval(), whom()
    rngs = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    both = method.generate(who, rngs, FEW)
    alone = method.generate(Condition(who.identity[1:]), [torch.Generator().manual_seed(4)], FEW)
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-5)


@BOTH
def test_an_export_draws_the_same_video(made, tmp_path, base, monkeypatch):
    method = made(base).eval()
    method.save(tmp_path / "export")
    monkeypatch.setitem(METHODS, method.recipe.method.kind, f"{__name__}:OneWord")
    again = OneWord(method.recipe, method.features, tmp_path / "export")
    with torch.no_grad():
        again.project.weight.zero_()
    again.load(tmp_path / "export")
    drawn = [m.eval().generate(whom(), torch.Generator().manual_seed(0), FEW)
             for m in (method, again)]  # fmt: skip
    assert torch.equal(*drawn)


def test_an_export_for_another_noise_schedule_is_refused(made, tmp_path):
    made(COGVIDEOX).save(tmp_path / "export")
    other = made(COGVIDEOX)
    other.recipe = recipe(".", COGVIDEOX)
    object.__setattr__(other.recipe.base, "snr_shift", 1.0)
    with pytest.raises(BadWeights, match=r"snr_shift"):
        other.load(tmp_path / "export")


def test_pictures_and_too_many_frames_are_refused(tmp_path):
    still = write_features(tmp_path / "still", codec="random:tiny-sd")
    with pytest.raises(BadValue, match="prepare a corpus of clips"):
        OneWord(recipe(still), Features.read(still), still)
    long = write_videos(tmp_path / "long", frames=33, people=1, clips=1)
    with pytest.raises(BadValue, match="know 32 frames"):
        OneWord(recipe(long), Features.read(long), long)
    wrong = write_videos(tmp_path / "wrong", COGVIDEOX, people=1, clips=1)
    narrow = replace(Features.read(wrong), text_shape=(16, 24))
    with pytest.raises(BadValue, match="have 4 and 24; prepare them"):
        OneWord(recipe(wrong, COGVIDEOX), narrow, wrong)
