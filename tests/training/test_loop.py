"""The loop with a real small method: learning, resuming, guarding."""

import os
import signal
from dataclasses import replace

import pytest
import torch

from infra.errors import BadWeights
from training.build import build
from training.engine import Average, PlainEngine, learning_rate
from training.loop import Diverged, finished, fit, latest
from training.recipes import lfw64
from training.settings import DataSettings, DropSettings, MethodSettings, OptimiserSettings


@pytest.fixture
def recipe(features):
    return replace(
        lfw64(),
        data=DataSettings(path=str(features), heldout_share=0.0),
        method=MethodSettings(kind="base", width=32, identity_norm="standard"),
        drop=DropSettings(identity=0.1, text=0.0, both=0.0),
        optimiser=OptimiserSettings(learning_rate=2e-3, ema_decay=0.9),
        scale=replace(lfw64().scale, precision="fp32"),
        steps=6, batch=8, microbatch=4, save_every=3, log_every=1,
    )  # fmt: skip


def train(recipe, out, engine=None, **how):
    job = build(recipe)
    reports = []
    engine = engine or PlainEngine(job.method, recipe)
    step = fit(engine, job.batches, recipe, out, reports.append, **how)
    return [r.losses["loss"] for r in reports], step, job.method, reports


def test_the_method_learns(recipe, tmp_path):
    losses, step, _, _ = train(replace(recipe, steps=50), tmp_path)
    assert step == 50
    assert sum(losses[-5:]) < 0.87 * sum(losses[:5])


def test_the_same_seed_gives_the_same_losses(recipe, tmp_path):
    assert train(recipe, tmp_path / "a")[0] == train(recipe, tmp_path / "b")[0]


def test_a_run_cut_short_goes_on_with_the_losses_of_an_undisturbed_one(recipe, tmp_path):
    whole, _, method, _ = train(recipe, tmp_path / "whole")
    train(replace(recipe, steps=3), tmp_path / "cut")
    rest, step, resumed, _ = train(recipe, tmp_path / "cut")
    assert step == 6
    assert rest == pytest.approx(whole[3:], abs=1e-6)
    pairs = zip(method.trainable().values(), resumed.trainable().values(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)


def test_microbatches_add_up_to_the_batch(recipe, tmp_path):
    small = train(recipe, tmp_path / "small")[0]
    large = train(replace(recipe, microbatch=8), tmp_path / "large")[0]
    assert small == pytest.approx(large, abs=1e-5)


def test_a_checkpoint_that_was_cut_short_is_not_taken(recipe, tmp_path):
    train(recipe, tmp_path)
    (tmp_path / "step-0000006/done.json").unlink()
    assert latest(tmp_path) == tmp_path / "step-0000003"


def test_only_the_newest_checkpoints_are_kept(recipe, tmp_path):
    train(replace(recipe, save_every=1, keep_checkpoints=2), tmp_path)
    assert [folder.name for folder in finished(tmp_path)] == ["step-0000005", "step-0000006"]


def test_a_checkpoint_of_another_recipe_is_refused(recipe, tmp_path):
    train(recipe, tmp_path)
    other = replace(recipe, method=replace(recipe.method, width=64), steps=9)
    with pytest.raises(BadWeights, match="another recipe"):
        train(other, tmp_path)


def test_sigterm_ends_the_loop_after_a_checkpoint(recipe, tmp_path):
    job = build(recipe)

    def stop(report):
        if report.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    step = fit(PlainEngine(job.method, recipe), job.batches, recipe, tmp_path, stop)
    assert step == 3
    assert latest(tmp_path).name == "step-0000003"


def test_steps_that_are_not_finite_move_nothing_and_end_the_run_if_they_go_on(recipe, tmp_path):
    job = build(replace(recipe, steps=100))
    engine = PlainEngine(job.method, replace(recipe, steps=100))
    weights = {n: w.detach().clone() for n, w in job.method.trainable().items()}
    job.method.codec = None
    poisoned = job.method.forward
    job.method.forward = lambda batch: {"loss": poisoned(batch)["loss"] * float("nan")}
    with pytest.raises(Diverged, match=r"optimiser\.learning_rate"):
        fit(engine, job.batches, replace(recipe, steps=100, save_every=100), tmp_path)
    assert all(w.equal(weights[n]) for n, w in job.method.trainable().items())


def test_reports_say_rate_and_share_of_reading(recipe, tmp_path):
    _, _, _, reports = train(recipe, tmp_path)
    assert all(r.images_per_s > 0 and 0 <= r.data_share < 1 for r in reports)
    assert [bool(r.checkpoint) for r in reports] == [False, False, True] * 2


def test_rates_warm_up_and_fall():
    settings = OptimiserSettings(learning_rate=1.0, warmup_steps=4, schedule="linear")
    rates = [learning_rate(settings, step, 12) for step in range(12)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[-1] == pytest.approx(1 / 8)
    cosine = OptimiserSettings(learning_rate=1.0, schedule="cosine")
    assert learning_rate(cosine, 6, 12) == pytest.approx(0.5)


def test_the_average_follows_and_is_taken_back():
    weight = torch.nn.Parameter(torch.zeros(2))
    average = Average({"w": weight}, decay=0.5)
    with torch.no_grad():
        weight.fill_(1.0)
    average.update()
    expected = 1 - min(0.5, 2 / 11)
    with average.swapped():
        assert weight.tolist() == pytest.approx([expected, expected])
    assert weight.tolist() == [1.0, 1.0]
