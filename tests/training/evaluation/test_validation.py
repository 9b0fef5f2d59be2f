"""A score of held-out people at every checkpoint, and the best one kept by it."""

import json
from dataclasses import replace

import pytest

from infra.errors import BadValue
from tests.training.conftest import write_features
from training.build import build
from training.engine import PlainEngine
from training.evaluation.validation import validator
from training.loop import fit
from training.recipes import tiny
from training.settings import DataSettings, OptimiserSettings, Scale


@pytest.fixture
def recipe(tmp_path):
    folder = write_features(tmp_path / "features", people=8, codec="random:tiny-sd")
    return replace(
        tiny(), data=DataSettings(path=str(folder), heldout_share=0.5), batch=4, microbatch=4,
        steps=6, save_every=2, log_every=2, validate_people=4, keep_best="loss_gain",
        keep_checkpoints=1, optimiser=OptimiserSettings(learning_rate=1e-2),
    )  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_checkpoint_is_scored_and_the_best_one_stays(recipe, tmp_path, precision):
    recipe = replace(recipe, scale=Scale(precision=precision))
    job, out, told = build(recipe), tmp_path / "out", []
    out.mkdir()
    fit(
        PlainEngine(job.method, recipe), job.batches, recipe, out, told.append,
        validate=validator(job, recipe),
    )  # fmt: skip
    scores = {report.step: report.scores["loss_gain"] for report in told}
    assert list(scores) == [2, 4, 6]
    assert len(set(scores.values())) == 3, "the score follows the weights"
    best = json.loads((out / "best.json").read_text())
    assert best["value"] == max(scores.values())
    assert (out / best["checkpoint"] / "done.json").exists()


def test_without_people_held_out_there_is_nothing_to_validate_on(recipe):
    alone = replace(recipe, data=replace(recipe.data, heldout_share=0.0))
    with pytest.raises(BadValue, match="raise data"):
        validator(build(alone), alone)
    assert validator(build(alone), replace(alone, validate_people=0)) is None
