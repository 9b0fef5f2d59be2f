"""A score of held-out people at every checkpoint, and the best one kept by it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from infra.errors import BadValue
from tests.training.conftest import write_features
from training.build import build
from training.engine import PlainEngine
from training.evaluation.sheets import CELL_PX
from training.evaluation.validation import sheet_of, validator
from training.loop import fit
from training.recipes import tiny
from training.settings import DataSettings, OptimiserSettings, Scale


@pytest.fixture
def recipe(tmp_path):
    folder = write_features(tmp_path / "features", people=8, codec="random:tiny-sd")
    return replace(
        tiny(), data=DataSettings(path=str(folder), heldout_share=0.5), batch=4, microbatch=4,
        steps=6, save_every=2, log_every=2, validate_people=4, keep_best="loss_gain",
        keep_checkpoints=1, optimiser=OptimiserSettings(learning_rate=1e-2), validate_steps=2,
    )  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_checkpoint_is_scored_and_the_best_one_stays(recipe, tmp_path, precision):
    recipe = replace(recipe, scale=Scale(precision=precision))
    job, out, told = build(recipe), tmp_path / "out", []
    out.mkdir()
    fit(
        PlainEngine(job.method, recipe), job.batches, recipe, out, told.append,
        validate=validator(job, recipe, out),
    )  # fmt: skip
    scores = {report.step: report.scores["loss_gain"] for report in told}
    assert list(scores) == [2, 4, 6]
    assert len(set(scores.values())) == 3, "the score follows the weights"
    best = json.loads((out / "best.json").read_text())
    assert best["value"] == max(scores.values())
    assert (out / best["checkpoint"] / "done.json").exists()
    sheets = [np.asarray(Image.open(sheet_of(report.checkpoint))) for report in told]
    assert len(list((out / "sheets").iterdir())) == len(sheets), "also of what made room"
    assert sheets[0].shape[1] > 4 * CELL_PX, "two people in each half, two pictures each"
    moved = [np.abs(later - sheets[0].astype(int)).mean() for later in sheets[1:]]
    assert min(moved) > 0, "drawings follow the weights"


def test_a_sheet_shows_the_same_people_from_the_same_noise(recipe, tmp_path):
    job = build(recipe)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        validator(job, recipe, tmp_path / name)(job.method, 2)
    sheets = [sheet_of(tmp_path / name / "step-0000002") for name in ("a", "b")]
    assert sheets[0].read_bytes() == sheets[1].read_bytes()


def test_no_sheet_is_drawn_where_none_is_asked_for_and_none_of_videos(recipe, tmp_path):
    job = build(recipe)
    validator(job, replace(recipe, validate_steps=0), tmp_path)(job.method, 2)
    videos = replace(job.prepared.features, frames=5)
    before, job.prepared.features = job.prepared.features, videos
    validate = validator(job, recipe, tmp_path)
    job.prepared.features = before
    validate(job.method, 2)
    assert not (tmp_path / "sheets").exists()
    with pytest.raises(BadValue, match="validate_steps cannot be -1"):
        validator(job, replace(recipe, validate_steps=-1), tmp_path)


def test_without_people_held_out_there_is_nothing_to_validate_on(recipe):
    alone = replace(recipe, data=replace(recipe.data, heldout_share=0.0))
    with pytest.raises(BadValue, match="raise data"):
        validator(build(alone), alone)
    assert validator(build(alone), replace(alone, validate_people=0)) is None
