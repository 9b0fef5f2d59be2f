"""``visage release``: what becomes a version, and which version becomes champion."""

import io
import json
import shutil
from dataclasses import replace

import pytest
from rich.console import Console

from infra.configuration import digest, to_yaml
from infra.errors import BadValue, BadWeights, UnreadableSource
from infra.registry import Registry
from infra.released import manifest
from pipelines.cli import main
from pipelines.release import decide, licences, release
from tests.infra.mlflow_server import put_database
from training.build import build
from training.exports import drawn_digest
from training.recipes import lfw64
from training.settings import DataSettings, MethodSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Features, and a run with one checkpoint on them, never trained."""
    from tests.training.conftest import noise_features

    home = tmp_path_factory.mktemp("model")
    recipe = replace(
        lfw64(),
        data=DataSettings(path=str(noise_features(home)), heldout_share=0.0),
        method=MethodSettings(kind="base", width=32),
        steps=4, batch=4, microbatch=4,
    )  # fmt: skip
    run = home / "lfw64-1"
    export = run / "step-0000004/export"
    export.mkdir(parents=True)
    build(recipe).method.save(export)
    (export.parent / "done.json").write_text('{"step": 4}')
    (run / "recipe.yaml").write_text(to_yaml(recipe))
    return run


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    put_database(tmp_path / "trained")
    shutil.copytree(model, tmp_path / "trained/lfw64-1")
    return tmp_path / "trained/lfw64-1"


def scored(run, auc, **other):
    """Write what ``visage evaluate`` writes."""
    export = drawn_digest(manifest(run / "step-0000004/export"))
    about = {
        "scores": {"auc": {"value": auc, "low": auc - 0.01, "high": auc + 0.01, "n": 60},
                   "own_distance": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 60}},
        "checkpoint": "step-0000004", "export": export, "corpus": "c0ffee", "encoder": "dlib@1",
        "people_digest": "p1", "evaluation": "step-0000004-e1",
        "guidance": 3.0, "steps": 30,
    } | other  # fmt: skip
    (run / "scores.json").write_text(json.dumps(about))
    return run


def other_weights(run, name, auc, **other):
    """Make a second run whose export differs in a file that its hashes do not cover."""
    copy = run.parent / name
    shutil.copytree(run, copy)
    with (copy / "step-0000004/export/config.json").open("a") as about:
        about.write(" " * len(name))
    return scored(copy, auc, **other)


def released(run, name="faceid", **more):
    out = io.StringIO()
    result = release(str(run), name, Console(file=out, width=200), **more)
    return result, out.getvalue()


def test_a_first_release_has_lineage_files_and_a_card_and_is_champion(run):
    result, told = released(scored(run, 0.9))
    assert (result.model, result.is_new, result.moved) == ("faceid/1", True, True)
    assert "Next: visage deploy --model faceid@champion --store" in told
    version = Registry(str(run.parent)).resolve("faceid@champion")
    assert version.files == manifest(run / "step-0000004/export")
    assert json.loads(version.tags["visage.score.auc"])["low"] == pytest.approx(0.89)
    wanted = {"visage.run": "lfw64-1", "visage.corpus": "c0ffee", "visage.people": "p1",
              "visage.encoder": "dlib@1", "visage.method": "base",
              "visage.licences": "not stated"}  # fmt: skip
    assert wanted.items() <= version.tags.items()
    assert "| auc | 0.9 (0.89 to 0.91) |" in version.description


def test_only_a_greater_score_makes_a_new_champion(run):
    released(scored(run, 0.9))
    tie, told = released(other_weights(run, "tie", 0.9))
    assert (tie.model, tie.champion, tie.moved) == ("faceid/2", "faceid/1", False)
    assert "does not beat 0.9" in told
    better, told = released(other_weights(run, "better", 0.95))
    assert (better.champion, better.moved) == ("faceid/3", True)
    assert "beats 0.9 (0.89 to 0.91) of faceid/1" in told
    best, told = released(other_weights(run, "best", 0.97, guidance=5.0))
    assert best.moved
    assert "drawn with guidance 5, 30 steps against guidance 3, 30 steps" in told


def test_the_same_export_again_is_the_same_version(run):
    first, _ = released(scored(run, 0.9))
    again, told = released(scored(run, 0.91))
    assert (again.model, again.is_new, again.moved) == (first.model, False, False)
    assert "it is the champion already" in told
    held = Registry(str(run.parent)).resolve("faceid")
    assert json.loads(held.tags["visage.score.auc"])["value"] == 0.91


def test_other_people_are_not_comparable_unless_it_is_forced(run):
    released(scored(run, 0.9))
    strangers = other_weights(run, "strangers", 0.99, people_digest="p2")
    refused, told = released(strangers)
    assert not refused.moved
    assert "not comparable with faceid/1, which has other held-out people" in told
    forced, _ = released(strangers, force=True)
    assert (forced.moved, forced.forced, forced.champion) == (True, True, "faceid/2")
    tags = Registry(str(run.parent)).resolve("faceid/2").tags
    assert tags["visage.forced"].startswith("forced, though not comparable")


def test_force_leaves_no_mark_where_the_score_is_better_anyway(run):
    released(scored(run, 0.9))
    better, _ = released(other_weights(run, "better", 0.95), force=True)
    assert (better.moved, better.forced) == (True, False)
    assert "visage.forced" not in Registry(str(run.parent)).resolve("faceid@champion").tags


def test_a_checkpoint_must_have_been_evaluated_as_it_is(run):
    with pytest.raises(UnreadableSource, match=r"visage evaluate .* --checkpoint step-0000004"):
        released(run)
    scored(run, 0.9)
    with (run / "step-0000004/export/config.json").open("a") as about:
        about.write(" ")
    with pytest.raises(UnreadableSource, match="was changed since"):
        released(run)


def test_the_first_release_completes_the_card_of_the_export_and_later_scores_leave_it(run):
    card = run / "step-0000004/export/README.md"
    assert "Not measured yet" in card.read_text()
    first, _ = released(scored(run, 0.9))
    told = card.read_text()
    assert "| auc | 0.9 (0.89 to 0.91) |" in told
    assert "Not measured yet" not in told
    again, _ = released(scored(run, 0.91))
    assert (again.model, card.read_text()) == (first.model, told)
    other, _ = released(run, name="another")
    assert (other.model, card.read_text()) == ("another/1", told)
    assert Registry(str(run.parent)).resolve("another").files == manifest(card.parent)
    assert sorted(p.name for p in card.parents[1].iterdir()) == ["done.json", "export"]


def test_scores_that_were_recorded_of_an_export_and_its_card_are_found_again(run):
    export = run / "step-0000004/export"
    older = scored(run, 0.9, export=digest(manifest(export)))
    first, _ = released(older)
    again, _ = released(older)
    assert (again.model, again.is_new) == (first.model, False)
    assert "Not measured yet" in (export / "README.md").read_text()


def test_licences_that_the_features_know_are_stated_without_the_corpus(run):
    about = run / "step-0000004/export/features.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"licences": {"CC0": 7}}))
    config = about.with_name("config.json")
    held = json.loads(config.read_text())
    held["files"]["features.json"] = manifest(about.parent)["features.json"]
    config.write_text(json.dumps(held))
    released(scored(run, 0.9))
    assert Registry(str(run.parent)).resolve("faceid").tags["visage.licences"] == '{"CC0": 7}'
    assert "licences of its pictures: 7 CC0" in about.with_name("README.md").read_text()


@pytest.mark.parametrize("metric", ["own_distance", "facesim", "acu"])
def test_a_score_that_cannot_rank_is_refused(run, metric):
    with pytest.raises(BadValue, match="more is better"):
        released(scored(run, 0.9), metric=metric)


def test_an_export_that_cannot_be_loaded_is_not_released(run):
    (weights, *_) = sorted((run / "step-0000004/export").rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(BadWeights, match="altered"):
        released(scored(run, 0.9))
    assert Registry(str(run.parent)).versions("faceid") == []


def test_a_pickle_is_never_released(run):
    (run / "step-0000004/export/extra.bin").write_bytes(b"cos\nsystem")
    with pytest.raises(BadWeights, match="is a pickle"):
        released(run)


def test_licences_are_counted_only_for_the_corpus_that_is_meant(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    corpus = tmp_path / "corpus/export/parquet"
    corpus.mkdir(parents=True)
    pq.write_table(pa.table({"license": ["CC0", "", "CC0"]}), corpus / "part-0.parquet")
    about = {"corpus": "c1", "recipe": {"corpus": str(tmp_path / "corpus")}}
    (tmp_path / "prepare.json").write_text(json.dumps(about))
    assert licences(tmp_path, "c1") == {"CC0": 2, "not stated": 1}
    assert licences(tmp_path, "c2") == {}


def test_a_champion_without_the_score_is_not_comparable(run):
    released(scored(run, 0.9))
    held = Registry(str(run.parent)).resolve("faceid")
    newer = replace(held, version=2, tags=held.tags | {"visage.score.dino": "{}"})
    decision = decide(newer, held, "dino")
    assert not decision.moves
    assert decision.why == "not comparable with faceid/1, which has no dino"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{run}"], "--as faceid"),
        (["nowhere", "--as", "faceid"], "visage train"),
        (["{run}", "--as", "../faceid"], "use letters, digits"),
        (["{run}", "--as", "faceid", "--checkpoint", "step-9"], "no whole checkpoint"),
        (["{run}", "--as", "faceid", "--checkpoint", "best"], "best.json"),
    ],
)
def test_bad_input_ends_with_one_clear_message_and_code_2(run, capsys, arguments, words):
    scored(run, 0.9)
    assert main(["release", *(a.format(run=run) for a in arguments)]) == 2
    assert words in capsys.readouterr().err
