"""``visage loop``: every step once, and on from the one that failed."""

import io
import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from infra.configuration import from_yaml, to_yaml
from infra.errors import BadValue
from infra.registry import Registry
from infra.storage import open_store
from pipelines import loop
from pipelines.cli import main
from pipelines.commands import deploy
from pipelines.commands.flags import parse
from pipelines.deploy import here
from pipelines.endpoints import deployed
from pipelines.loops.recipes import RECIPES, DeploySettings, LoopRecipe, quickstart, tiny
from pipelines.loops.record import Looping, StepFailed
from pipelines.loops.report import caution
from pipelines.quickstart.web import free_port
from pipelines.runs import look
from serving.recipes import HttpSettings, ImageSettings, local
from serving.weights import CACHE
from tests.e2e.served import export

VISAGE = str(Path(sys.executable).with_name("visage"))


def at_work(folder):
    """Take a loop up, as the same command again does."""
    home = open_store(str(folder))
    return Looping(
        recipe=tiny(), home=home, folder=(home / "tiny-loop-1").make(), source="s",
        planned=("curate", "prepare", "train", "evaluate", "release"),
        command="visage loop again", console=Console(file=io.StringIO()),
    )  # fmt: skip


def done(work, step, settings, inputs, result):
    """Do a step; return what came of it."""
    work.do(step, settings, inputs, result)
    return work.steps[step].result


def test_a_step_is_done_once_as_long_as_what_decides_it_is_the_same(tmp_path):
    calls = []

    def work():
        calls.append("x")
        return {"path": str(tmp_path), "n": len(calls)}

    first = done(at_work(tmp_path), "curate", {"a": 1}, {"source": "s"}, work)
    again = at_work(tmp_path)
    assert done(again, "curate", {"a": 1}, {"source": "s"}, work) == first
    assert again.steps["curate"].reused
    assert done(at_work(tmp_path), "curate", {"a": 2}, {"source": "s"}, work)["n"] == 2
    assert done(at_work(tmp_path), "curate", {"a": 2}, {"source": "other"}, work)["n"] == 3


def test_a_step_that_is_not_come_to_is_not_forgotten(tmp_path):
    first = at_work(tmp_path)
    for step in ("curate", "prepare"):
        first.do(step, {}, {}, lambda: {"n": 1})
    changed = at_work(tmp_path)
    changed.do("curate", {"other": 1}, {}, lambda: {"n": 2})
    assert look(tmp_path / "tiny-loop-1")[0].progress == "1 of 5 steps, curate"
    back = at_work(tmp_path)
    back.do("prepare", {}, {}, lambda: {"n": 2})
    assert back.steps["prepare"].reused


def test_a_step_whose_folder_was_deleted_is_done_again(tmp_path):
    made = tmp_path / "made"

    def work():
        made.mkdir()
        return {"path": str(made)}

    at_work(tmp_path).do("curate", {}, {}, work)
    made.rmdir()
    again = at_work(tmp_path)
    again.do("curate", {}, {}, work)
    assert not again.steps["curate"].reused


def test_a_step_that_does_not_stand_any_more_is_done_again(tmp_path):
    for stands, reused in ((True, False), (True, True), (False, False)):
        work = at_work(tmp_path)
        work.do("release", {}, {}, lambda: {"n": 1}, stands=lambda stands=stands: stands)
        assert work.steps["release"].reused == reused


def test_a_step_that_fails_says_how_to_go_on_and_loses_nothing(tmp_path):
    work = at_work(tmp_path)
    work.do("curate", {}, {}, lambda: {"n": 1})

    def bad():
        raise BadValue("crop", "round", "give aligned.")

    with pytest.raises(StepFailed, match="'prepare' ended: crop cannot be 'round'") as error:
        work.do("prepare", {}, {}, bad)
    assert str(error.value).endswith("go on: visage loop again")
    assert error.value.exit_code == 2
    (seen,) = look(tmp_path / "tiny-loop-1")
    assert (seen.kind, seen.state, seen.progress) == ("loop", "failed", "1 of 5 steps, prepare")
    assert seen.next == "visage loop again"
    again = at_work(tmp_path)
    again.do("curate", {}, {}, lambda: {"n": 2})
    assert again.steps["curate"].reused


def test_ctrl_c_leaves_a_loop_that_stopped(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        at_work(tmp_path).do("curate", {}, {}, interrupted)
    assert look(tmp_path / "tiny-loop-1")[0].state == "stopped"


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_yaml(name, tmp_path):
    made = RECIPES[name]()
    assert made.name == name
    (tmp_path / "r.yaml").write_text(to_yaml(made))
    assert from_yaml(tmp_path / "r.yaml", LoopRecipe(name="r")) == made


def test_what_the_loop_fills_in_is_not_given():
    with pytest.raises(BadValue, match="it is curated"):
        replace(tiny(), prepare=replace(tiny().prepare, corpus="x"))


def test_where_the_model_is_from_is_not_given_to_deploy():
    for changed in (replace(local(), model="m@champion"), replace(local(), store="elsewhere")):
        with pytest.raises(BadValue, match=r"deploy\.(model|store).*leave it out"):
            DeploySettings(recipe=changed)


def test_faces_are_served_as_they_were_curated():
    other = replace(local(), faces=replace(local().faces, backend="insightface"))
    assert replace(tiny(), deploy=DeploySettings(recipe=other)).deploy.serve is False
    with pytest.raises(BadValue, match="as dlib measures them"):
        replace(tiny(), deploy=DeploySettings(serve=True, recipe=other))


def test_only_the_quickstart_serves_without_being_told():
    assert [name for name, make in RECIPES.items() if make().deploy.serve] == ["quickstart"]


def test_the_command_that_serves_the_model_says_every_setting_that_is_not_usual():
    asked = replace(
        quickstart().deploy.recipe, model="m@champion", store="my store",
        images=ImageSettings(compile=True, guidance=1.5), http=HttpSettings(port=8123),
        adapters=("a", "b"), keys="my keys.db",
    )  # fmt: skip
    verb, *words = shlex.split(loop._command(asked).removeprefix("visage "))
    assert verb == "deploy"
    told = parse(deploy.Arguments, deploy.Arguments(recipe=local()), words, "visage deploy")
    assert told.local
    assert told.recipe == asked


def test_few_people_are_not_taken_for_a_measurement():
    assert "2 held-out people are too few" in caution({"people": 2})
    assert caution({"people": 200}) == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tinny"], "Did you mean 'tiny'?"),
        (["tiny"], "Name one with --source.path"),
        (["tiny", "--curate.source.path", "/no/such/place"], "it does not exist"),
        (["tiny", "--train.stepss", "3"], "Did you mean '--train.steps'?"),
        (["tiny", "--prepare.corpus", "x"], "it is curated"),
        (["tiny", "--deploy.model", "x"], "what is released is served"),
    ],
)
def test_bad_input_ends_with_one_clear_message_and_code_2(tmp_path, capsys, arguments, words):
    assert main(["loop", *arguments, "--store", str(tmp_path / "s")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


@pytest.mark.long
@pytest.mark.ray
def test_a_deployment_on_a_cluster_is_made_once_and_again_when_it_is_gone(local_ray, tmp_path):  # noqa: ARG001
    name = f"loop-{secrets.token_hex(4)}"  # Ray's workers share one place of downloads
    registry = Registry(str(tmp_path))
    released = registry.register(name, export(tmp_path / "e", seed=0), {})
    registry.move(name, "champion", released.version)
    port = free_port()
    served = replace(
        local(), http=HttpSettings(port=port), images=ImageSettings(threads=1, steps=2)
    )

    def deploying():
        work = at_work(tmp_path)
        work.planned, work.address = ("deploy",), here()
        settings = DeploySettings(serve=True, recipe=served)
        work.recipe = replace(work.recipe, name=name, deploy=settings)
        with work.stack:
            loop._deploy(work)
        return work.steps["deploy"]

    try:
        first = deploying()
        assert not first.reused
        assert first.result == {
            "url": f"http://127.0.0.1:{port}", "version": f"{name}/1", "is_local": False
        }  # fmt: skip
        assert deploying().reused
        deployed.stop()
        assert not deploying().reused
        assert deployed.state().served["model"] == f"{name}/1"
    finally:
        deployed.shutdown()
        shutil.rmtree(CACHE.expanduser() / name, ignore_errors=True)


@pytest.fixture(scope="module")
def people(tmp_path_factory, photographs):
    """Twelve people of LFW with four photographs each."""
    import tarfile

    home, count = tmp_path_factory.mktemp("people"), {}
    with tarfile.open(photographs / "lfw-dev.tar") as tar:
        for member in sorted(tar, key=lambda member: member.name):
            if member.isfile():
                count.setdefault(Path(member.name).parent.name, []).append(member)
        for who in [who for who, found in count.items() if len(found) >= 4][:12]:
            (home / who).mkdir()
            for member in count[who][:4]:
                with Image.open(tar.extractfile(member)) as image:
                    image.save(home / who / Path(member.name).name)
    return home


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(500)
def test_photographs_become_a_released_model_and_nothing_is_done_twice(people, tmp_path):
    words = ["--curate.source.path", str(people), "--store", "store", "--train.steps", "20",
             "--train.save-every", "10", "--train.scale.threads", "2", "--evaluate.steps", "3",
             "--json"]  # fmt: skip

    def looped(*more):
        told = subprocess.run(
            [VISAGE, "loop", "tiny", *words, *more],
            capture_output=True, text=True, cwd=tmp_path, timeout=450, check=False,
            env=os.environ | {"OMP_NUM_THREADS": "2"},
        )  # fmt: skip
        return told, json.loads(told.stdout.splitlines()[-1]) if told.returncode == 0 else None

    told, _ = looped("--release.metric", "acu")
    assert told.returncode == 2
    assert "The step 'release' ended: metric cannot be 'acu'" in told.stderr
    told, done = looped()
    assert told.returncode == 0, told.stderr
    assert [name for name, step in done["steps"].items() if not step["reused"]] == ["release"]
    assert done["steps"]["release"]["result"]["model"] == "tiny/1"
    page = (Path(done["path"]) / "report.html").read_text()
    assert "48 of 48 pictures kept" in page
    assert "data:image/png;base64," in page
    _, again = looped()
    assert all(step["reused"] for step in again["steps"].values())
    (seen,) = look(Path(done["path"]))
    assert (seen.state, seen.result) == ("done", "tiny/1")
    assert seen.next == done["deploy"] == (
        f"visage deploy --model tiny@champion --store {tmp_path}/store --local"
    )  # fmt: skip
