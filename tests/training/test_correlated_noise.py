"""Noise whose frames are alike: its statistics, and that training and drawing have it."""

from dataclasses import replace

import pytest
import torch

from tests.training.videos import DIM, IMAGE, MOVING, features, recipe, write_videos
from training.build import build
from training.method import Condition, Sampling
from training.noise import correlated
from training.sampler import first_noise
from training.settings import MethodSettings, VideoSettings

ALIKE = 0.6


def covariance(noise):
    """Of frames, over all else; ``noise`` is samples x channels x frames x rows x columns."""
    return torch.cov(noise.movedim(2, 0).flatten(1))


def wanted(frames):
    at = torch.arange(frames)
    return ALIKE ** (at[:, None] - at).abs().float()


def test_each_frame_s_noise_is_standard_normal_and_as_like_another_s_as_asked():
    noise = torch.randn(500, 4, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    made = correlated(noise, ALIKE)
    assert made.mean(dim=(0, 1, 3, 4)).abs().max() < 0.02
    torch.testing.assert_close(covariance(made), wanted(5), atol=0.02, rtol=0)
    torch.testing.assert_close(covariance(noise), torch.eye(5), atol=0.02, rtol=0)


def test_frames_are_mixed_and_places_and_channels_are_not():
    noise = torch.zeros(1, 2, 3, 4, 4)
    noise[0, 1, 0, 2, 3] = 1
    made = correlated(noise, ALIKE)
    torch.testing.assert_close(made[0, 1, :, 2, 3], torch.tensor([1, ALIKE, ALIKE**2]))
    made[0, 1, :, 2, 3] = 0
    assert not made.any()


def test_the_first_frame_is_what_was_drawn_and_0_changes_nothing():
    noise = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(correlated(noise, ALIKE)[:, :, 0], noise[:, :, 0])
    assert torch.equal(correlated(noise, 0.0), noise)


def test_training_adds_such_noise(tmp_path):
    folder = write_videos(tmp_path / "videos", people=8, clips=8)
    ours = recipe(folder, batch=32, microbatch=32, video=VideoSettings(noise_correlation=ALIKE))
    (micro,) = build(replace(ours, method=MethodSettings(kind="id_animator"))).batches.micro(0)
    torch.testing.assert_close(covariance(micro["noise"]), wanted(4), atol=0.05, rtol=0)


@pytest.mark.parametrize("each_its_own", [False, True])
def test_drawing_begins_as_such_noise(each_its_own):
    rng = [torch.Generator().manual_seed(seed) for seed in range(64)]
    condition, sampling = Condition(torch.zeros(64, DIM)), Sampling(frames=3)
    noise = first_noise(
        condition, rng if each_its_own else rng[0], sampling, features(MOVING), ALIKE
    )
    torch.testing.assert_close(covariance(noise), wanted(3), atol=0.05, rtol=0)


def test_a_method_draws_with_it(tmp_path):
    folder, videos = write_videos(tmp_path / "videos", people=2, clips=1), {}
    for alike in (0.0, ALIKE):
        how = {"method": MethodSettings(kind="id_animator"),
               "video": VideoSettings(noise_correlation=alike)}  # fmt: skip
        method = build(recipe(folder, batch=2, microbatch=2, **how)).method.eval()
        who = Condition(torch.zeros(8, DIM), image=torch.zeros(8, *IMAGE))
        drawn = method.generate(who, torch.Generator().manual_seed(0), Sampling(steps=2))
        assert drawn.isfinite().all()
        videos[alike] = (drawn[:, 1:] - drawn[:, :-1]).abs().mean()
    assert videos[ALIKE] < 0.9 * videos[0.0]
