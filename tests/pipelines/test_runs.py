"""``visage runs``: how runs are, read from what they left."""

import fcntl
import json
import os
import time

import pytest

from infra.configuration import to_yaml
from infra.storage import open_folder
from infra.tracking import Tracker, spool_file
from pipelines.cli import main
from pipelines.commands import runs as command
from pipelines.recipes import photos
from pipelines.runs import changed, find, look, named
from tests.infra.mlflow_server import put_database
from training.recipes import tiny


def report(step, **more):
    words = {"step": step, "losses": {"loss": 0.5, "mse": 0.5}, "learning_rate": 1e-3,
             "grad_norm": 1.0, "skipped": 0, "images_per_s": 8.0, "data_share": 0.1,
             "checkpoint": None}  # fmt: skip
    return json.dumps(words | more) + "\n"


def old(folder):
    """Say that nothing was written here for an hour."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (time.time() - 3600,) * 2)


@pytest.fixture
def trained(tmp_path):
    """A training run of 60 steps that has taken 30."""
    run = tmp_path / "trained/tiny-1"
    (run / "step-0000030").mkdir(parents=True)
    (run / "step-0000030/done.json").write_text('{"step": 30}')
    (run / "recipe.yaml").write_text(to_yaml(tiny()).replace("microbatch: 8", "microbatch: 4"))
    (run / "reports.jsonl").write_text(report(20) + report(30))
    return run


@pytest.fixture
def curated(tmp_path):
    run = tmp_path / "store/photos-1"
    (run / "seed").mkdir(parents=True)
    (run / "ingest").mkdir()
    (run / "recipe.yaml").write_text(to_yaml(photos()))
    (run / "seed/job.json").write_text('{"finished_at": "2026-01-01T00:00:00"}')
    (run / "ingest/job.json").write_text('{"finished_at": ""}')
    (run / ".lock").touch()
    return run


def end(run, step=60):
    done = run / f"step-{step:07d}/done.json"
    done.parent.mkdir()
    done.write_text(f'{{"step": {step}}}')
    return run


def test_a_training_run_that_reports_is_running_and_a_silent_one_has_stopped(trained):
    assert look(trained)[0].state == "running"
    old(trained)
    (seen,) = look(trained)
    assert (seen.state, seen.progress, seen.result) == ("stopped", "step 30 of 60", "loss 0.5000")
    assert seen.next == f"visage train {trained}/recipe.yaml --out {trained.parent}"
    assert 3500 < seen.age_s < 3700


def test_slow_steps_are_not_taken_for_silence(trained):
    slow = report(30, images_per_s=0.02)  # ten steps of eight pictures: more than an hour
    (trained / "reports.jsonl").write_text(slow)
    old(trained)
    assert look(trained)[0].state == "running"


def test_a_lock_says_whether_somebody_is_at_work(curated):
    with (curated / ".lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        (seen,) = look(curated)
        assert (seen.state, seen.progress) == ("running", "1 of 5 jobs, in ingest")
    (seen,) = look(curated)
    assert (seen.state, seen.next) == (
        "stopped", f"visage curate {curated}/recipe.yaml --store {curated.parent}",
    )  # fmt: skip


def test_a_finished_run_says_what_came_of_it(curated):
    record = {"finished_at": "2026-01-01", "rows": 5000, "keep": 4000, "reject": {"no_face": 1000}}
    (curated / "run.json").write_text(json.dumps(record))
    (seen,) = look(curated)
    assert (seen.state, seen.progress, seen.result) == ("done", "5,000 rows", "4,000 kept")
    assert seen.next.startswith("visage prepare")


def test_a_whole_training_run_is_evaluated_and_then_released(trained):
    assert look(end(trained))[0].next == f"visage evaluate {trained}"
    about = {"scores": {"auc": {"value": 0.95, "low": 0.9, "high": 0.99, "n": 60}},
             "checkpoint": "step-0000060", "people": 60}  # fmt: skip
    (trained / "scores.json").write_text(json.dumps(about))
    (trained / "evaluations/step-0000060-e1").mkdir(parents=True)
    (trained / "evaluations/step-0000060-e1/scores.json").write_text(json.dumps(about))
    run, evaluation = look(trained)
    assert (run.state, run.result) == ("done", "loss 0.5000, AUC 0.950")
    assert run.next == f"visage release {trained} --as NAME"
    assert (evaluation.kind, evaluation.recipe, evaluation.progress, evaluation.result) == (
        "evaluate", "tiny-1", "60 people", "auc 0.950",
    )  # fmt: skip


def test_a_run_that_ended_with_an_error_has_failed(trained):
    (trained / "run.json").write_text('{"error": "Diverged: at step 30"}')
    old(trained)
    assert look(trained)[0].state == "failed"


def test_prepared_features_are_a_run_and_a_store(tmp_path):
    features = tmp_path / "features"
    (features / "shards").mkdir(parents=True)
    (features / "shards/shard-00000.safetensors").touch()
    about = {"corpus": "c0ffee", "recipe": {"name": "lfw64", "corpus": "store/lfw-1"}}
    (features / "prepare.json").write_text(json.dumps(about))
    old(features)
    (seen,) = find([str(features)])
    assert (seen.state, seen.progress) == ("stopped", "1 shards")
    assert seen.next == f"visage prepare lfw64 --corpus store/lfw-1 --out {features}"
    (features / "features.json").write_text("{}")
    assert find([str(features)])[0].state == "done"


def test_settings_that_are_not_the_recipes_own_are_shown(trained):
    assert changed(trained) == {"microbatch": (4, 8)}


def test_a_run_is_found_by_name_and_by_path(trained, curated):
    stores = [str(trained.parent), str(curated.parent)]
    assert named("tiny-1", stores).path == str(trained)
    assert named(str(curated), []).name == "photos-1"


def test_the_list_is_the_newest_first_and_json_if_asked(trained, curated, capsys):
    old(curated)
    stores = ["--store", str(curated.parent), str(trained.parent)]
    assert main(["runs", *stores, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(run["name"], run["state"]) for run in listed] == [
        ("tiny-1", "running"), ("photos-1", "stopped"),
    ]  # fmt: skip
    assert main(["runs", *stores]) == 0
    assert "step 30 of 60" in capsys.readouterr().out


def test_one_run_is_shown_with_what_to_type_next(trained, capsys):
    (trained / "best.json").write_text('{"checkpoint": "step-0000030", "metric": "loss"}')
    old(trained)
    assert main(["runs", str(trained)]) == 0
    told = capsys.readouterr().out
    for words in ("microbatch: 4 (usually 8)", "step 30: loss 0.5000, mse 0.5000, 8.0 images/s",
                  "step-0000030 (best by loss)", "Next: visage train"):  # fmt: skip
        assert words in told


def test_following_ends_with_the_run(trained, capsys, monkeypatch):
    def later(_):
        with (trained / "reports.jsonl").open("a") as lines:
            lines.write(report(60))
        end(trained)

    monkeypatch.setattr(command.time, "sleep", later)
    assert main(["runs", str(trained), "--follow"]) == 0
    told = capsys.readouterr().out
    assert [told.count(f"step {step}:") for step in (20, 30, 60)] == [1, 1, 1]
    assert "tiny-1 is done" in told


def test_following_a_run_that_stopped_ends_with_code_1(trained, capsys):
    old(trained)
    assert main(["runs", str(trained), "--follow"]) == 1
    assert "tiny-1 is stopped: step 30 of 60" in capsys.readouterr().out


def test_what_waits_for_mlflow_is_sent(tmp_path, monkeypatch, capsys):
    put_database(tmp_path / "trained")
    store = open_folder(str(tmp_path / "trained"))
    assert main(["runs", "--sync", "--store", str(tmp_path / "trained")]) == 0
    assert "Nothing waits" in capsys.readouterr().out
    with monkeypatch.context() as patched:
        patched.setattr("infra.mlflow_run.MlflowRun.open", lambda _: 1 / 0)
        tracker = Tracker(store, "train", "r", spool=spool_file(store, "train", "r"))
        tracker.log(1, {"loss": 0.5})
        assert tracker.finish({}, {}, {}, {}) == ""
    assert main(["runs", "--sync", "--store", str(tmp_path / "trained")]) == 0
    assert "train r: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tiny-2", "--store", "{store}"], "Did you mean 'tiny-1'?"),
        (["--store", "nowhere"], "there is no such folder"),
        (["{store}"], "it is no run"),
        (["--follow"], "visage runs NAME --follow"),
        (["--sync", "--store", "nowhere"], "there is no such folder"),
    ],
)
def test_bad_input_ends_with_one_clear_message_and_code_2(trained, capsys, arguments, words):
    assert main(["runs", *(a.format(store=trained.parent) for a in arguments)]) == 2
    assert words in capsys.readouterr().err
