"""Who the frames of a clean video show."""

from dataclasses import replace

import pytest
import torch

from infra.errors import BadValue
from tests.training.objectives.cases import bare, step
from tests.training.videos import COGVIDEOX, MOVING, batch, features
from training.loss_settings import LossSettings
from training.nets.video_codec import load_video_codec
from training.noise import NoiseSchedule
from training.objective import Objective
from training.objectives.step import Gives
from training.objectives.video_identity import frames_at, spread_over, video_identity
from training.settings import BaseModelSettings

ANN, BOB = (0.0, 0.0), (3.0, 0.0)


def film(*people):
    """A prediction whose clean estimate's frames show these people."""
    pred = torch.zeros(1, 3, len(people), 2, 2)
    pred[0, 0, :, 0] = torch.tensor(people) / 4
    return pred


def films(*each):
    return torch.cat(each).requires_grad_()


def shown(pred, seen, **more):
    count, frames = len(pred), pred.shape[2]
    given = {
        "target_identity": torch.tensor([ANN] * count), "seen": torch.tensor(seen).float(),
        "landmarks": torch.zeros(count, frames, 5, 2), "time": torch.zeros(count),
    }  # fmt: skip
    return step(pred, batch=given, **more)


def test_it_is_the_mean_over_frames_in_which_the_face_is_seen_weighed_by_signal():
    pred = films(film(ANN, BOB, BOB), film(BOB, ANN, ANN))
    taken = shown(pred, [[1, 1, 0], [1, 1, 1]], snr=[3.0, 9.0])
    found = video_identity(bare(video_identity=1.0), taken)
    assert found.item() == pytest.approx((0.75 * 9 / 2 + 0.9 * 9 / 3) / 2)
    assert taken.record["video_identity_frames"].item() == pytest.approx(5 / 2)
    found.backward()
    moved = pred.grad.flatten(3).any(dim=3).any(dim=1)
    assert moved.tolist() == [[False, True, False], [True, False, False]]


def test_noisy_samples_and_those_in_which_nobody_is_seen_or_was_asked_for_count_nothing():
    pred = films(film(BOB, BOB), film(BOB, BOB), film(BOB, BOB))
    taken = shown(pred, [[1, 1], [0, 0], [1, 1]], snr=[0.5, 9.0, 9.0], asked=[True, True, False])
    found = video_identity(bare(video_identity=1.0), taken)
    found.backward()
    assert found.item() == 0
    assert not pred.grad.any()
    assert taken.record["video_identity_frames"].item() == 0


def test_frames_are_spread_over_those_that_are_seen_and_turn_with_the_step():
    seen = torch.tensor([[1, 0, 1, 1, 1, 1, 1]]).bool()
    for turn, wanted in ((0.0, [0, 3, 5]), (0.9, [2, 4, 6])):
        at, there = spread_over(seen, 3, torch.tensor([turn]))
        assert at.tolist() == [wanted]
        assert there.tolist() == [[1, 1, 1]]
    at, there = spread_over(torch.tensor([[0, 0, 1, 0]]).bool(), 3, torch.tensor([0.5]))
    assert at[0, 0] == 2
    assert there.tolist() == [[1, 0, 0]]


def test_every_seen_frame_is_looked_at_in_some_step():
    seen = torch.tensor([[1, 0, 1, 1, 0, 1, 1]]).bool()
    looked_at = {
        number for turn in torch.linspace(0, 0.99, 20)
        for number in spread_over(seen, 2, turn[None])[0][0].tolist()
    }  # fmt: skip
    assert looked_at == {0, 2, 3, 5, 6}


@pytest.mark.parametrize("base", [MOVING, COGVIDEOX])
@torch.no_grad()
def test_the_frames_that_are_decoded_are_those_of_the_whole_video(base, tmp_path):
    told, given = features(base), batch(base)
    made = bare(video_identity=1.0)
    made.codec, made.features = load_video_codec(base, tmp_path), told
    latents = given["latents"]
    whole, at = made.pictures(latents), torch.tensor([[0, 2], [1, 1]])
    some = frames_at(made, latents, at)
    frames = at if base == MOVING else torch.tensor([0, 3, 7])[at]
    for row in range(2):
        for k in range(2):
            alone = whole[row, :, frames[row, k]]
            torch.testing.assert_close(some[row, k], alone, atol=1e-5, rtol=1e-5)


def test_it_is_a_loss_of_a_true_video_and_its_gradient_reaches_the_prediction(tmp_path):
    told, given = features(MOVING, side=16), batch(MOVING, side=16)
    given["target_identity"] = torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
    schedule = NoiseSchedule(BaseModelSettings())
    losses = LossSettings(mse=0.0, video_identity=1.0, video_identity_frames=1)
    objective = Objective(losses, schedule, load_video_codec(MOVING, tmp_path), told)
    noised = schedule.noised(given["latents"], given["noise"], torch.tensor([0.1, 0.2]))
    pred = given["noise"].clone().requires_grad_()
    found = objective(pred, noised, given, torch.ones(2, dtype=torch.bool))
    assert found["video_identity"] > 0
    found["loss"].backward()
    assert torch.isfinite(pred.grad).all()
    assert pred.grad.flatten(3).any(dim=3).any(dim=1).sum(dim=1).tolist() == [1, 1]


def test_pictures_and_clips_without_tracks_are_refused():
    with pytest.raises(BadValue, match=r"use losses\.identity"):
        video_identity(bare(video_identity=1.0), step(torch.zeros(1, 3, 2, 2)))
    taken = shown(films(film(ANN)), [[1]])
    untracked = replace(taken, batch={"landmarks": taken.batch["landmarks"]})
    with pytest.raises(BadValue, match="no `seen`; prepare the clips with the tracks"):
        video_identity(bare(video_identity=1.0), untracked)


@pytest.mark.parametrize("loss", ["identity", "triplet", "enhanced_contrast", "identity_adversary"])
def test_losses_that_look_at_pictures_are_refused_for_videos_with_what_to_use(loss, tmp_path):
    schedule, gives = NoiseSchedule(BaseModelSettings()), Gives(ask=True, more=True)
    codec = load_video_codec(MOVING, tmp_path)
    with pytest.raises(BadValue, match=rf"losses\.{loss} .* use losses\.video_identity"):
        Objective(LossSettings(**{loss: 1.0}), schedule, codec, features(MOVING), gives)
