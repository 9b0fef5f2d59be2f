import pytest
import torch

from training.noise import NoiseSchedule
from training.settings import BaseModelSettings

RNG = torch.Generator().manual_seed(0)
Z = torch.randn(5, 3, 4, 4, generator=RNG)
NOISE = torch.randn(5, 3, 4, 4, generator=RNG)
TIME = torch.tensor([0.0, 0.2, 0.5, 0.8, 0.95])


@pytest.fixture(params=["epsilon", "v_prediction"])
def schedule(request):
    return NoiseSchedule(BaseModelSettings(prediction=request.param))


def test_a_right_prediction_gives_the_clean_latents_back(schedule):
    noised = schedule.noised(Z, NOISE, TIME)
    clean = schedule.clean(noised.z_t, noised.t, noised.target)
    assert torch.allclose(clean, Z, atol=1e-3)


def test_noise_and_target_are_those_of_diffusers(schedule):
    noised = schedule.noised(Z, NOISE, TIME)
    theirs = schedule.scheduler.add_noise(Z, NOISE, noised.t)
    assert torch.allclose(noised.z_t, theirs, atol=1e-6)
    if schedule.prediction == "v_prediction":
        assert torch.allclose(
            noised.target, schedule.scheduler.get_velocity(Z, NOISE, noised.t), atol=1e-6
        )


def test_min_snr_weights_are_those_of_the_paper(schedule):
    snr = torch.tensor([0.1, 5.0, 50.0])
    weight = schedule.weight(snr, 5.0)
    clipped = torch.tensor([0.1, 5.0, 5.0])
    by = snr if schedule.prediction == "epsilon" else snr + 1
    assert torch.allclose(weight, clipped / by)
    assert torch.equal(schedule.weight(snr, 0.0), torch.ones(3))


def test_every_time_is_one_of_the_schedule(schedule):
    times = schedule.noised(Z[:2], NOISE[:2], torch.tensor([0.0, 0.99999])).t
    assert times.tolist() == [0, 999]
