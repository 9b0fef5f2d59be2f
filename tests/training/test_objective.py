import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.training.methods.adapters import FEATURES, batch
from training.loss_settings import LOSSES as WEIGHTS
from training.noise import NoiseSchedule
from training.objective import LOSSES, Objective
from training.objectives.step import Gives
from training.settings import BaseModelSettings, LossSettings

EVERYBODY = torch.ones(2, dtype=torch.bool)
EVERYTHING = Gives(ask=True, base=True, more=True, attention=True, residuals=True, embed=8)


class Mirror(nn.Module):
    """A codec whose pictures are its latents, that counts them."""

    decoded = 0

    def encode(self, pictures):
        return pictures

    def decode(self, latents):
        self.decoded += len(latents)
        return latents[:, :3]


def objective(**weights):
    schedule = NoiseSchedule(BaseModelSettings())
    return Objective(LossSettings(**weights), schedule, Mirror(), FEATURES, EVERYTHING)


def told(of, given, asked=EVERYBODY):
    noised = of.schedule.noised(given["latents"], given["noise"], given["time"])
    pred = (0.9 * noised.target).requires_grad_()
    return of(pred, noised, given, asked), pred


def at(*times):
    return batch() | {"time": torch.tensor(times)}


def test_every_loss_has_a_weight_and_every_weight_a_loss():
    assert set(WEIGHTS) == set(LOSSES)
    assert set(WEIGHTS) <= {field.name for field in fields(LossSettings)}


def test_every_loss_is_in_the_table_of_objectives():
    text = (Path(__file__).parents[2] / "training/README.md").read_text()
    table = text.partition("## Objectives")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(LOSSES)


def test_a_loss_is_its_weighted_terms():
    found, _ = told(objective(mse=0.5, masked=2.0), batch())
    assert found.keys() == {"loss", "mse", "masked"}
    assert torch.isclose(found["loss"], 0.5 * found["mse"] + 2.0 * found["masked"])
    assert torch.isclose(found["mse"], found["masked"])  # the mask is all ones


def test_min_snr_weighs_easy_samples_down():
    plain, _ = told(objective(), at(0.01, 0.9))
    weighed, _ = told(objective(min_snr_gamma=5.0), at(0.01, 0.9))
    assert weighed["mse"] < plain["mse"]


def test_mse_is_told_where_it_weighs_nothing():
    found, _ = told(objective(mse=0.0, masked=1.0), batch())
    assert found["mse"] > 0
    assert found["loss"].equal(found["masked"])


def test_samples_of_the_class_count_in_the_prior_alone():
    of, plain = objective(masked=1.0, prior=0.5), batch()
    flagged = plain | {"is_prior": torch.tensor([False, True])}
    found, pred = told(of, flagged)
    error = (0.1 * of.schedule.noised(plain["latents"], plain["noise"], plain["time"]).target) ** 2
    each = error.flatten(1).mean(dim=1)
    assert found["mse"].item() == pytest.approx(each[0].item() / 2)
    assert found["masked"].item() == pytest.approx(each[0].item() / 2)
    assert found["prior"].item() == pytest.approx(each[1].item() / 2)
    found["loss"].backward()
    assert pred.grad[1].abs().sum() > 0


def test_a_person_of_the_class_is_not_looked_at():
    of = objective(mse=0.0, identity=1.0)
    found, _ = told(of, at(0.05, 0.05) | {"is_prior": torch.tensor([False, True])})
    assert of.tools.codec.decoded == 1
    assert found["identity"] > 0


def test_without_gradients_only_the_error_is_computed():
    of = objective(identity=1.0, prior=1.0)
    with torch.no_grad():
        found, _ = told(of, at(0.05, 0.05))  # and no prior is missed
    assert found.keys() == {"loss", "mse"}
    assert of.tools.codec.decoded == 0


def test_what_a_loss_records_is_told_beside_it():
    of = objective(mse=0.0, reward=1.0)
    of.tools.watch = {"white": lambda pictures, _: pictures.mean(dim=(1, 2, 3))}
    given = at(0.05, 0.05)
    noised = of.schedule.noised(given["latents"], given["noise"], given["time"])
    pred = noised.target.clone().requires_grad_()
    found = of(pred, noised, given, EVERYBODY, ask=lambda **_: pred)
    assert found.keys() == {"loss", "mse", "reward", "reward_identity", "reward_white"}
    assert found["loss"].equal(found["reward"])


@pytest.mark.parametrize(
    ("times", "asked", "count"),
    [
        ((0.05, 0.1), [True, True], 2),
        ((0.05, 0.9), [True, True], 1),
        ((0.05, 0.1), [True, False], 1),
        ((0.8, 0.9), [True, True], 0),
    ],
)
def test_only_who_is_asked_for_and_can_be_seen_is_decoded(times, asked, count):
    of = objective(mse=0.0, identity=1.0)
    found, pred = told(of, at(*times), torch.tensor(asked))
    assert of.tools.codec.decoded == max(count, 1)
    assert (found["identity"] > 0) == (count > 0)
    found["loss"].backward()
    moved = pred.grad.flatten(1).abs().sum(dim=1) > 0
    assert int(moved.sum()) == count


def test_a_clearer_sample_counts_for_more():
    losses = []
    for time in (0.01, 0.2):
        given = at(time, time)
        of = objective(mse=0.0, identity=1.0)
        of.tools.identity = Same()
        losses.append(float(told(of, given)[0]["identity"]))
    assert 1 > losses[0] > losses[1] > 0.5


class Same:
    """An identity loss of 1 for everybody."""

    def vectors(self, pictures, _):
        return pictures.flatten(1)[:, :128]

    def apart(self, one, _):
        return torch.ones(len(one))


def test_the_encoder_is_loaded_only_where_it_weighs():
    assert objective().identity_loss is None
    assert objective(identity=0.1).identity_loss is not None
    assert not any(p.requires_grad for p in objective(identity=0.1).parameters())


def test_identity_is_measured_in_the_base_generator_too(features):
    from training.build import build
    from training.recipes import lfw64
    from training.settings import DataSettings, MethodSettings

    recipe = replace(
        lfw64(),
        data=DataSettings(path=str(features), heldout_share=0.0),
        method=MethodSettings(kind="base", width=32),
        losses=LossSettings(identity=1.0),
        batch=2,
        microbatch=2,
    )
    job = build(recipe)
    given = next(job.batches.micro(0)) | {
        "time": torch.full((2,), 0.1),
        "drop": torch.ones(2),
        "target_identity": torch.zeros(2, 128),
        "landmarks": torch.tensor([[21, 14], [18, 14], [11, 14], [14, 14], [16, 20.0]]).expand(
            2, 5, 2
        ),
    }
    found = job.method(given)
    assert found["identity"] > 0
    found["loss"].backward()
    assert all(weight.grad is not None for weight in job.method.trainable().values())
    assert not any(name.startswith(("codec", "objective")) for name in job.method.trainable())
