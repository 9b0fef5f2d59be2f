"""Losses with networks of their own come back at resume, and are the same on many workers."""

from dataclasses import replace

import numpy as np
import pytest

from tests.training.conftest import write_features
from tests.training.many import Workers, train
from tests.training.objectives.cases import of_any_picture
from training.build import build
from training.noise import STEPS, NoiseSchedule
from training.recipes import tiny
from training.settings import (
    BaseModelSettings,
    DataSettings,
    DropSettings,
    LossSettings,
    OptimiserSettings,
    Scale,
)

WITH_NETWORKS = {"identity_adversary": 0.5, "decorrelate": 0.5}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("objectives")
    write_features(
        home / "features", shape=(4, 16, 16), codec="random:tiny-sd", text=(5, 32), dim=128
    )
    return home


def recipe(home, **losses):
    return replace(
        tiny(),
        base=BaseModelSettings(weights="random:tiny-sd"),
        data=DataSettings(path=str(home / "features"), heldout_share=0.0),
        losses=LossSettings(**losses),
        drop=DropSettings(identity=0.2, text=0.1, both=0.1),
        optimiser=OptimiserSettings(learning_rate=1e-3, ema_decay=0.9),
        steps=4, batch=4, microbatch=2, save_every=2, log_every=1,
    )  # fmt: skip


def test_an_adversary_and_a_projection_come_back_at_resume(home, tmp_path):
    ours = recipe(home, **WITH_NETWORKS)
    whole = train(ours, tmp_path / "whole")
    first = train(replace(ours, steps=2), tmp_path / "cut")
    rest = train(ours, tmp_path / "cut")
    assert first["losses"] + rest["losses"] == pytest.approx(whole["losses"], abs=1e-6)


def test_all_losses_are_computed_in_half_precision_too(home, tmp_path):
    weights = dict.fromkeys(of_any_picture(), 0.1)
    ours = replace(recipe(home, **weights, reward_steps=2), steps=1)
    half = train(replace(ours, scale=Scale(precision="bf16")), tmp_path / "half")
    full = train(ours, tmp_path / "full")
    assert half["losses"] == pytest.approx(full["losses"], rel=0.02)
    assert half["losses"] != full["losses"]


@pytest.fixture(scope="module")
def pair(home):
    (home / "two").mkdir()
    workers = Workers(2, home / "two")
    yield workers
    workers.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "steps", "losses"),
    [
        (0, 2, of_any_picture()),
        (3, 1, ["identity", "localise", "edit_direction", *WITH_NETWORKS]),
    ],
)
def test_two_workers_have_the_losses_of_one(home, pair, tmp_path, stage, steps, losses):
    """MasterWeaver's calls beside the wrapped forward never exchanged a gradient."""
    weights = dict.fromkeys(losses, 0.1)
    ours = replace(recipe(home, **weights, reward_steps=2), steps=steps)
    alone = train(ours, tmp_path / "alone")
    many = replace(ours, scale=Scale(workers=2, zero_stage=stage))
    first, second = pair.train(many, tmp_path / "many")
    assert first["losses"] == pytest.approx(alone["losses"], abs=1e-4)
    for name, weight in alone["weights"].items():
        assert np.abs(first["weights"][name] - weight).mean() < 1e-4
        assert (first["weights"][name] == second["weights"][name]).all()


def test_in_that_run_one_worker_sees_somebody_while_the_other_sees_nobody(home):
    """So that with ZeRO 3 a worker that skipped what it need not see would be found out."""
    batches = build(recipe(home)).batches
    first, second = (next(batches.micro(0, rank, 2))["time"] for rank in range(2))
    schedule = NoiseSchedule(recipe(home).base)
    seen = [(schedule.alphas_cumprod[(t * STEPS).long()] > 0.5).any() for t in (first, second)]
    assert seen[0] != seen[1]
