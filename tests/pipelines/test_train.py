"""``visage train`` as people type it, on features made of noise."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipelines.train import run_name
from training.features import Prepared
from training.settings import TrainRecipe

VISAGE = str(Path(sys.executable).with_name("visage"))
SETTINGS = {
    "method.width": 32, "steps": 4, "batch": 4, "microbatch": 4, "save-every": 2, "log-every": 1,
    "scale.precision": "fp32", "scale.threads": 1, "data.heldout-share": 0,
}  # fmt: skip
SMALL = [word for flag, value in SETTINGS.items() for word in (f"--{flag}", str(value))]


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    from tests.training.conftest import noise_features

    return noise_features(tmp_path_factory.mktemp("features"))


def visage(*arguments, cwd):
    return subprocess.run(
        [VISAGE, "train", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(features, tmp_path_factory):
    home = tmp_path_factory.mktemp("trained")
    told = visage("lfw64", "--data.path", features, *SMALL, "--json", cwd=home)
    assert told.returncode == 0, told.stderr
    return home, json.loads(told.stdout.splitlines()[-1])


def test_a_run_leaves_weights_recipe_and_record(trained):
    _, result = trained
    assert result["step"] == 4
    assert list(Path(result["export"]).rglob("*.safetensors"))
    assert "width: 32" in (Path(result["path"]) / "recipe.yaml").read_text()


def test_the_run_is_in_mlflow_with_its_losses_over_steps(trained):
    from mlflow.tracking import MlflowClient

    home, result = trained
    client = MlflowClient(tracking_uri=f"sqlite:///{home}/trained/mlflow.db")
    history = client.get_metric_history(result["mlflow"], "mse")
    assert [metric.step for metric in history] == [1, 2, 3, 4]
    assert client.get_run(result["mlflow"]).data.tags["visage.corpus"] == "c0ffee"
    assert models(home, result["mlflow"]) == ["step-2", "step-4"]


def models(home, run_id):
    """Name the models that MLflow has of a run."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{home}/trained/mlflow.db")
    where = client.get_run(run_id).info.experiment_id
    return sorted(m.name for m in client.search_logged_models([where]) if m.source_run_id == run_id)


def test_the_same_command_again_trains_nothing_more_and_mlflow_takes_other_hands(trained, features):
    from mlflow.tracking import MlflowClient

    home, result = trained
    hands = [*SMALL, "--scale.threads", "2"]
    told = visage("lfw64", "--data.path", features, *hands, "--json", cwd=home)
    again = json.loads(told.stdout.splitlines()[-1])
    assert (again["run"], again["step"], again["loss"]) == (result["run"], 4, result["loss"])
    assert again["mlflow"] == result["mlflow"] != "", told.stderr
    held = MlflowClient(tracking_uri=f"sqlite:///{home}/trained/mlflow.db").get_run(again["mlflow"])
    assert (held.data.tags["scale.threads"], held.data.params["scale.precision"]) == ("2", "fp32")
    assert models(home, again["mlflow"]) == ["step-2", "step-4"], "each checkpoint once"


@pytest.mark.slow
def test_a_full_disk_ends_a_run_with_one_clear_message(features, tmp_path):
    command = [VISAGE, "train", "lfw64", "--data.path", features, *SMALL]
    told = subprocess.run(
        ["bash", "-c", 'ulimit -f 8; exec "$@"', "bash", *map(str, command)],
        capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert told.returncode == 1, told.stderr
    assert "step-0000002' could not be written" in told.stderr
    assert "MLflow" in told.stderr, "what MLflow did not take is told too"
    assert "Traceback" not in told.stderr


def test_features_prepared_otherwise_make_another_run(features):
    recipe = TrainRecipe(name="mine")
    here = run_name(recipe, Prepared(features).digest)
    assert run_name(recipe, Prepared(features).digest) == here
    about = features / "features.json"
    kept = about.read_text()
    about.write_text(json.dumps(json.loads(kept) | {"preparation": "anew"}))
    other = run_name(recipe, Prepared(features).digest)
    about.write_text(kept)
    assert other != here


@pytest.mark.slow
def test_ctrl_c_ends_one_process_after_a_checkpoint_so_that_nothing_goes_on_with_half_a_model(
    features, tmp_path
):
    command = [VISAGE, "train", "lfw64", "--data.path", str(features), *SMALL, "--steps", "100000",
               "--save-every", "100000", "--json"]  # fmt: skip
    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    said = []
    for line in run.stderr:
        said.append(line)
        if line.startswith("step 2 "):
            run.send_signal(signal.SIGINT)
    told = run.stdout.read()
    assert run.wait(60) == 130, "".join(said)
    ended = json.loads(told.splitlines()[-1])
    assert 2 <= ended["step"] < 100000
    assert ended["export"].endswith(f"step-{ended['step']:07d}/export")
    assert models(tmp_path, ended["mlflow"]) == [f"step-{ended['step']}"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(240)
def test_sigterm_ends_workers_after_a_checkpoint_and_one_process_goes_on_from_it(
    features, tmp_path
):
    from mlflow.tracking import MlflowClient

    watched = ["--save-every", "1000", "--data.heldout-share", "0.5", "--validate-people", "2"]
    many = [*SMALL, *watched, "--scale.workers", "2", "--scale.zero-stage", "3"]
    few = ["--data.path", str(features), *SMALL, *watched]
    command = [VISAGE, "train", "lfw64", "--data.path", str(features), *many, "--steps", "1000"]
    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    )
    said = []
    for line in run.stdout:
        said.append(line)
        if line.startswith("step 2 "):
            run.send_signal(signal.SIGTERM)
    assert run.wait(60) == 130, "".join(said)
    assert "after a checkpoint; the same command goes on" in "".join(said)
    folder = next((tmp_path / "trained").glob("lfw64-*"))
    ended = json.loads((folder / "run.json").read_text())
    reached, sheet = ended["step"], f"sheets/step-{ended['step']:07d}.png"
    assert 2 <= reached < 1000
    assert (folder / sheet).exists()
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/trained/mlflow.db")
    assert [file.path for file in client.list_artifacts(ended["mlflow"], "sheets")] == [sheet]
    run = subprocess.Popen(
        [VISAGE, "train", "lfw64", *few, "--steps", "1000"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
    )  # fmt: skip
    first = next(line for line in run.stdout if line.startswith("step "))
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=60)
    assert first.startswith(f"step {reached + 1} of 1000")


def test_more_workers_than_the_machine_has_are_refused(features, tmp_path):
    told = visage("lfw64", "--data.path", features, *SMALL, "--batch", "4096", "--scale.workers",
                  "4096", "--microbatch", "1", cwd=tmp_path)  # fmt: skip
    assert told.returncode == 2, told.stderr
    assert "scale.workers cannot be 4096: each needs 1 CPUs of its own" in told.stderr


def test_a_run_is_scored_and_shown(trained):
    home, result = trained
    told = subprocess.run(
        [VISAGE, "evaluate", result["path"], "--json"],
        capture_output=True, text=True, cwd=home, timeout=120, check=False,
    )  # fmt: skip
    assert told.returncode == 2
    assert "no person is held out" in told.stderr, "this run held nobody out"


@pytest.mark.parametrize("folder", [".", "nowhere"])
def test_what_is_no_run_is_not_scored(tmp_path, folder):
    told = subprocess.run(
        [VISAGE, "evaluate", folder], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert told.returncode == 2
    assert "visage train" in told.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lfw46"], "Did you mean 'lfw64'?"),
        (["lfw64"], "visage prepare"),
        (["lfw64", "--data.path", "nothing"], "visage prepare"),
        (["lfw64", "--lossess.mse", "1"], "Did you mean '--losses.mse'?"),
        (["lfw64", "--steps", "0"], "give 1 or more"),
        (["lfw64", "--data.path", "{features}", "--scale.offload"], "scale.zero_stage"),
        (["lfw64", "--data.path", "{features}", "--scale.use-gpu"], "torch sees no GPU"),
        (
            ["lfw64", "--data.path", "{features}", "--keep-best", "auc", "--validate-people", "4"],
            "only `visage evaluate` measures it",
        ),
        (["lfw64", "--data.path", "{features}", "--keep-best", "loss_gain"], "validate_people"),
        (
            ["lfw64", "--data.path", "{features}", "--optimiser.learning-rate", "-1"],
            "give more than 0",
        ),
        (["ip_adapter_faceid_sd15", "--data.path", "{features}", "--scale.no-use-gpu"], "channels"),
    ],
)
def test_bad_input_ends_with_one_clear_message_and_code_2(features, tmp_path, arguments, words):
    if "torch sees no GPU" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    told = visage(*(a.format(features=features) for a in arguments), cwd=tmp_path)
    assert told.returncode == 2, told.stderr
    assert words in told.stderr
    assert "Traceback" not in told.stderr
