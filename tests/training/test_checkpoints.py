"""Checkpoints: whole or not there, the newest and the best kept, and read by whoever comes."""

import json
import logging
import pickle
from dataclasses import asdict, replace

import pytest
from safetensors import safe_open

from infra.errors import BadValue, BadWeights, CheckpointNotWritten
from tests.infra.full_disk import files_of_at_most
from tests.training.test_loop import recipe, train  # noqa: F401 - a fixture
from training.build import build
from training.checkpoints import best, finished, latest
from training.engine import PlainEngine
from training.loop import Report, ReportFile, fit, read_reports


def scored(recipe, out, scores):  # noqa: F811
    """Train with a checkpoint each step, validated by numbers that are given."""
    job, given = build(recipe), dict(enumerate(scores, 1))
    recipe, reports = replace(recipe, save_every=1, steps=len(scores)), []

    def validate(_, step):
        return {"facesim": given[step]}

    fit(PlainEngine(job.method, recipe), job.batches, recipe, out, reports.append,
        validate=validate)  # fmt: skip
    return reports


def test_the_best_score_is_kept_beside_the_newest(recipe, tmp_path):  # noqa: F811
    recipe = replace(recipe, keep_best="facesim", keep_checkpoints=1)
    reports = scored(recipe, tmp_path, [0.1, 0.5, float("nan"), 0.3, 0.2])
    assert [folder.name for folder in finished(tmp_path)] == ["step-0000002", "step-0000005"]
    assert best(tmp_path, "facesim") == (tmp_path / "step-0000002", 0.5)
    said = {"checkpoint": "step-0000002", "metric": "facesim", "value": 0.5}
    assert json.loads((tmp_path / "best.json").read_text()) == said
    assert [r.scores["facesim"] for r in reports][:2] == [0.1, 0.5]


def test_of_losses_the_lowest_is_the_best(recipe, tmp_path):  # noqa: F811
    recipe = replace(recipe, keep_best="loss", keep_checkpoints=1, save_every=1, steps=5)
    _, _, _, reports = train(recipe, tmp_path)
    lowest = min(reports, key=lambda report: report.losses["loss"])
    assert best(tmp_path, "loss") == (lowest.checkpoint, lowest.losses["loss"])
    assert lowest.checkpoint.exists()


def test_a_best_that_nobody_measures_is_refused_with_what_there_is(recipe, tmp_path):  # noqa: F811
    with pytest.raises(BadValue, match=r"keep_best cannot be 'facesym'.*facesim, loss, mse"):
        scored(replace(recipe, keep_best="facesym"), tmp_path / "scored", [0.1])
    with pytest.raises(BadValue, match="only the losses loss, mse"):
        train(replace(recipe, keep_best="facesim", save_every=6), tmp_path / "plain")


def test_where_the_disk_refuses_the_checkpoint_before_stays_whole(recipe, tmp_path):  # noqa: F811
    whole = train(recipe, tmp_path / "whole")[0]
    train(replace(recipe, steps=3), tmp_path / "run")
    with files_of_at_most(100_000), pytest.raises(CheckpointNotWritten, match="make room"):
        train(recipe, tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["step-0000003"]
    assert train(recipe, tmp_path / "run")[0] == pytest.approx(whole[3:], abs=1e-6)


def test_where_the_disk_refuses_the_first_checkpoint_none_is_said_to_be_whole(recipe, tmp_path):  # noqa: F811
    with files_of_at_most(100_000), pytest.raises(CheckpointNotWritten) as caught:
        train(recipe, tmp_path)
    assert "There is none before it: make room" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_reports_that_a_full_disk_refuses_stop_nothing_and_are_written_later(tmp_path, caplog):
    keep = ReportFile(tmp_path)
    told = [Report(step, {"loss": 0.5}, 0.1, 1.0, 0, 1.0, 0.0) for step in range(4)]
    keep(told[0])
    with files_of_at_most(keep.path.stat().st_size + 10), caplog.at_level(logging.WARNING):
        keep(told[1])
        keep(told[2])
        assert read_reports(keep.path) == told[:1]
    keep(told[3])
    assert read_reports(keep.path) == told
    assert [record.args[0] for record in caplog.records] == [1], "it is said once"


def test_what_a_crash_cut_short_is_removed(recipe, tmp_path):  # noqa: F811
    train(recipe, tmp_path)
    (tmp_path / "step-0000006/done.json").unlink()
    train(replace(recipe, steps=4), tmp_path)
    assert [folder.name for folder in finished(tmp_path)] == ["step-0000003", "step-0000004"]
    assert not (tmp_path / "step-0000006").exists()


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_checkpoint_says_so(recipe, tmp_path, damage):  # noqa: F811
    train(recipe, tmp_path)
    path = next(latest(tmp_path).glob("engine-*"))
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[:1000])
    with pytest.raises(BadWeights, match="Delete this checkpoint"):
        train(replace(recipe, steps=9), tmp_path)


def test_a_checkpoint_holds_weights_moments_and_averages_by_name(recipe, tmp_path):  # noqa: F811
    _, _, method, _ = train(replace(recipe, steps=1), tmp_path)
    with safe_open(tmp_path / "step-0000001/engine-00000-of-00001.safetensors", "pt") as held:
        names, state = set(held.keys()), json.loads(held.metadata()["state"])
    kinds = ("weight", "exp_avg", "exp_avg_sq", "average")
    assert names == {f"{kind}.{name}" for kind in kinds for name in method.trainable()}
    assert (state["step"], state["moved"], state["averaged"]) == (1, 1, 1)


def test_reports_are_told_once_however_often_a_run_is_resumed(recipe, tmp_path):  # noqa: F811
    def told(steps):
        ours, job = replace(recipe, steps=steps), build(recipe)
        fit(PlainEngine(job.method, ours), job.batches, ours, tmp_path, ReportFile(tmp_path))

    told(4)
    lost = Report(5, {"loss": 9.0}, 0.1, 1.0, 0, 1.0, 0.0)
    with (tmp_path / "reports.jsonl").open("a") as lines:
        lines.write(json.dumps(asdict(lost)) + "\n")
        lines.write('{"step": 6, "los')
    told(6)
    reports = read_reports(tmp_path / "reports.jsonl")
    assert [report.step for report in reports] == [1, 2, 3, 4, 5, 6]
    assert reports[4].losses["loss"] < 9
    assert [r.step for r in reports if r.checkpoint] == [3, 4, 6]
