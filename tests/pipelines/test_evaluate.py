"""``visage evaluate`` as people type it, on runs that were never trained."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from infra.errors import BadInput, BadValue, BadWeights, UnreadableSource
from infra.released import manifest
from infra.storage import open_folder
from infra.tracking import send_waiting
from pipelines.cli import main
from pipelines.evaluate import evaluate
from pipelines.evaluation.compare import compare
from pipelines.evaluation.settings import EvaluateSettings
from pipelines.evaluation.subject import chosen, weights_asked
from pipelines.evaluation.tables import WORDS
from tests.training.measured import measured_features, untrained_run
from training.exports import complete_card, drawn_digest
from training.features import Features, Prepared
from training.recipes import lfw64
from training.settings import DataSettings, MethodSettings, Scale

VISAGE = str(Path(sys.executable).with_name("visage"))
QUICK = EvaluateSettings(seeds=2, steps=2)


def recipe(**changes):
    small = replace(
        lfw64(),
        method=MethodSettings(kind="base", width=32),
        data=DataSettings(heldout_share=0.5),
        scale=Scale(threads=1),
    )
    return replace(small, **changes)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Features, and two runs on them that differ by their seeds."""
    home = tmp_path_factory.mktemp("home")
    features = measured_features(home / "features", people=12, photos=2)
    for seed in (0, 1):
        untrained_run(home / f"trained/run{seed}", recipe(seed=seed), features)
    return home


@pytest.fixture(scope="module")
def told(home):
    """What the command says and leaves."""
    words = ["--seeds", "2", "--steps", "2", "--json"]
    told = subprocess.run(
        [VISAGE, "evaluate", "trained/run0", *words],
        capture_output=True, text=True, cwd=home, timeout=120, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    return told


def quiet():
    return Console(file=io.StringIO(), width=200)


def test_scores_are_told_with_intervals_and_absent_ones_with_reasons(told):
    said = json.loads(told.stdout.splitlines()[-1])
    assert set(said["scores"]) | set(said["absent"]) == set(WORDS)
    assert set(said["scores"]["auc"]) == {"value", "low", "high", "n"}
    assert WORDS["auc"] in told.stderr
    assert "absent, no --clip was given" in told.stderr


def test_an_evaluation_has_a_folder_of_its_own_and_a_copy_beside_the_run(told, home):
    said = json.loads(told.stdout.splitlines()[-1])
    folder = home / said["path"]
    assert folder.parent == home / "trained/run0/evaluations"
    assert folder.name.startswith("step-0000004-")
    beside = json.loads((home / "trained/run0/scores.json").read_text())
    assert beside == json.loads((folder / "scores.json").read_text())
    assert Image.open(home / "trained/run0/contact.png").width > 500
    people = pq.read_table(folder / "people.parquet")
    assert len(people) == beside["people"] == beside["scores"]["auc"]["n"]


def test_it_is_in_mlflow_with_its_pictures(told, home):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{home}/trained/mlflow.db")
    where = client.get_experiment_by_name("evaluate").experiment_id
    (run,) = client.search_runs([where])
    said = json.loads(told.stdout.splitlines()[-1])
    assert run.info.run_name == f"run0-{said['evaluation']}"
    assert run.data.metrics["auc"] == pytest.approx(said["scores"]["auc"]["value"])
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"contact.png"}
    (of,) = run.inputs.dataset_inputs
    assert (of.dataset.digest, of.tags[0].value) == ("c0ffee", "evaluation")


def test_what_mlflow_could_not_take_is_sent_later(told, home, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("infra.mlflow_run.MlflowRun.open", lambda _: 1 / 0)
        console = quiet()
        done = evaluate(str(home / "trained/run0"), console, QUICK)
    assert "records wait in" in console.file.getvalue()
    waiting = send_waiting(open_folder(str(home / "trained")))
    assert [(sent.run, sent.problem) for sent in waiting] == [(f"run0-{done.folder.name}", "")]
    assert done.folder.name == json.loads(told.stdout.splitlines()[-1])["evaluation"]


def test_the_same_again_is_found_and_another_guidance_overwrites_nothing(told, home):
    run, console = home / "trained/run0", quiet()
    first = evaluate(str(run), console, QUICK)
    assert first.folder.name == json.loads(told.stdout.splitlines()[-1])["evaluation"]
    assert "Scored before" in console.file.getvalue()
    second = evaluate(str(run), quiet(), replace(QUICK, guidance=1.0))
    assert first.folder != second.folder
    assert first.folder.exists()
    assert json.loads((run / "scores.json").read_text())["guidance"] == 1.0


def test_an_evaluation_outlives_the_completion_of_the_card(told, home):  # noqa: ARG001
    export = home / "trained/run0/step-0000004/export"
    assert complete_card(export, "# Scores\n")
    console = quiet()
    about = evaluate(str(home / "trained/run0"), console, QUICK).about
    assert "Scored before" in console.file.getvalue()
    assert about["export"] == drawn_digest(manifest(export))


def test_inception_may_look_at_pictures_and_what_is_of_videos_may_not(home):
    prepared = Prepared(home / "features")
    asked = EvaluateSettings(inception="file:inception.safetensors")
    assert weights_asked(prepared, asked) == {"inception": "file:inception.safetensors"}
    with pytest.raises(BadValue, match="it measures videos"):
        weights_asked(prepared, EvaluateSettings(i3d="file:i3d.safetensors"))


def test_a_run_against_itself_differs_in_nothing(home):
    run = str(home / "trained/run0")
    _, said = compare(run, run, quiet(), QUICK)
    assert said["differences"]
    for name, each in said["differences"].items():
        assert (each["mean"], each["low"], each["high"], each["p"]) == (0, 0, 0, 1), name


def test_two_runs_are_compared_person_by_person(home):
    console = quiet()
    ours, said = compare(str(home / "trained/run0"), str(home / "trained/run1"), console, QUICK)
    theirs = json.loads((home / "trained/run1/scores.json").read_text())
    own = said["differences"]["own_distance"]
    assert own["n"] == theirs["people"]
    scores = ours.about["scores"]["own_distance"], theirs["scores"]["own_distance"]
    assert own["mean"] == pytest.approx(scores[0]["value"] - scores[1]["value"])
    assert own["low"] <= own["mean"] <= own["high"]
    assert own["mean"] != 0
    assert "run0 less run1" in console.file.getvalue()
    assert json.loads((home / "trained/run0/comparison.json").read_text()) == said


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"corpus": "another"}, "different corpora"), ({}, "different people were held out")],
)
def test_runs_that_cannot_be_compared_are_refused(home, tmp_path, changed, words):
    features = home / "features"
    share = 0.5
    if changed:
        features = measured_features(tmp_path / "features", people=12, photos=2, **changed)
    else:
        share = 0.8
    other = untrained_run(
        tmp_path / "other", recipe(data=DataSettings(heldout_share=share)), features
    )
    with pytest.raises(BadValue, match=words):
        compare(str(home / "trained/run0"), str(other), quiet(), QUICK)


def test_a_checkpoint_is_latest_best_or_named(tmp_path):
    for step in (300, 600):
        folder = tmp_path / f"step-{step:07d}"
        folder.mkdir()
        (folder / "done.json").write_text("{}")
    assert chosen(tmp_path, "latest").name == "step-0000600"
    assert chosen(tmp_path, "step-300") == chosen(tmp_path, "step-0000300")
    with pytest.raises(UnreadableSource, match=r"no whole checkpoint 'step-0000301'.*It has step"):
        chosen(tmp_path, "step-301")
    with pytest.raises(UnreadableSource, match="--keep-best"):
        chosen(tmp_path, "best")
    (tmp_path / "best.json").write_text('{"checkpoint": "step-0000300"}')
    assert chosen(tmp_path, "best").name == "step-0000300"


def test_held_out_people_say_nothing_of_who_learnt_one_person(tmp_path):
    features = measured_features(tmp_path / "features")
    run = untrained_run(tmp_path / "run", recipe(), features)
    told = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(told.replace("kind: base", "kind: lora"))
    with pytest.raises(UnreadableSource, match="lora learnt one person"):
        evaluate(str(run), quiet(), QUICK)


def test_features_of_another_encoder_than_at_training_are_refused(tmp_path):
    features = measured_features(tmp_path / "features")
    run = untrained_run(tmp_path / "run", recipe(), features)
    replace(Features.read(features), embedder="other@1").write(features)
    with pytest.raises(BadInput, match="other@1"):
        evaluate(str(run), quiet(), QUICK)


def test_features_of_another_corpus_than_at_training_are_refused(tmp_path):
    features = measured_features(tmp_path / "features")
    run = untrained_run(tmp_path / "run", recipe(), features)
    replace(Features.read(features), corpus="decaf").write(features)
    with pytest.raises(BadValue, match="corpus c0ffee, and these have decaf"):
        evaluate(str(run), quiet(), QUICK)


def test_altered_weights_are_refused(tmp_path):
    features = measured_features(tmp_path / "features")
    run = untrained_run(tmp_path / "run", recipe(), features)
    weights = run / "step-0000004/export/tokens.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"oops")
    with pytest.raises(BadWeights, match="altered"):
        evaluate(str(run), quiet(), QUICK)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "usage: visage evaluate RUN"),
        (["nowhere"], "Name a run of `visage train`"),
        (["."], "Name a run of `visage train`"),
        (["trained/empty"], "no whole checkpoint"),
        (["trained/run0", "--checkpoint", "step-9"], "It has step-0000004"),
        (["trained/run0", "--poeple", "3"], "Did you mean '--people'?"),
        (["trained/run0", "--people", "0"], "give 1 or more"),
        (["trained/run0", "--clip", "random:tiny-klip"], "Did you mean 'tiny-clip'?"),
        (["trained/run0", "--dino", "file:nowhere"], "does not exist"),
    ],
)
def test_bad_input_ends_with_one_clear_message_and_code_2(
    home, arguments, words, monkeypatch, capsys
):
    empty = home / "trained/empty"
    empty.mkdir(exist_ok=True)
    (empty / "recipe.yaml").write_text("name: empty\n")
    monkeypatch.chdir(home)
    assert main(["evaluate", *arguments]) == 2
    told = capsys.readouterr()
    assert words in told.err + told.out
    assert "Traceback" not in told.err
