"""``visage submit`` on a cluster with a token, over HTTP."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.pipelines.ray_head import Head

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(400)]
VISAGE = str(Path(sys.executable).with_name("visage"))


@pytest.fixture(scope="module")
def head():
    there = Head().start()
    yield there
    there.stop()


@pytest.fixture(scope="module")
def home(tmp_path_factory, astronaut):
    """A folder with an album of four photographs."""
    home = tmp_path_factory.mktemp("home")
    (home / "album").mkdir()
    with Image.open(astronaut) as image:
        for number in range(4):
            crop = image.convert("RGB").crop((number, 0, number + 400 + 10 * number, 420))
            crop.save(home / f"album/{number}.jpg")
    return home


def visage(head, home, *words, **environment):
    return subprocess.run(
        [VISAGE, *words, "--address", head.address], capture_output=True, text=True, cwd=home,
        env=head.environment | environment, timeout=300, check=False,
    )  # fmt: skip


CURATE = ("curate", "photos", "--source.path", "album", "--workers.lookers", "1")


@pytest.fixture(scope="module")
def submitted(head, home):
    told = visage(head, home, "submit", *CURATE, "--json")
    assert told.returncode == 0, told.stderr
    return told, json.loads(told.stdout)


def decisions(path):
    return pq.read_table(f"{path}/decisions").to_pylist()


def test_a_submitted_run_decides_what_a_local_one_does(head, home, submitted):
    told, ended = submitted
    assert (ended["state"], ended["joined"], ended["result"]["rows"]) == ("done", False, 4)
    assert ended["result"]["path"] == f"{home}/store/{ended['result']['run']}"
    assert "asks for  CPUs: 1, GPUs: 0" in told.stderr
    assert "kept" in told.stderr, "what the run says is shown"
    here = subprocess.run(
        [VISAGE, *CURATE, "--source.path", f"{home}/album", "--store", "here", "--json"],
        capture_output=True, text=True, cwd=home,
        env={k: v for k, v in head.environment.items() if not k.startswith("RAY_AUTH")},
        timeout=300, check=False,
    )  # fmt: skip
    assert here.returncode == 0, here.stderr
    local = json.loads(here.stdout.splitlines()[-1])
    assert local["run"] == ended["result"]["run"]
    assert decisions(local["path"]) == decisions(ended["result"]["path"])


def test_the_same_again_joins_the_run(head, home, submitted):
    told = visage(head, home, "submit", *CURATE, "--json")
    again = json.loads(told.stdout)
    assert (again["run"], again["joined"]) == (submitted[1]["run"], True)
    assert again["result"] == submitted[1]["result"]
    assert "is there already (done)" in told.stderr
    listed = visage(head, home, "runs", "--json")
    assert submitted[1]["run"] in [run["name"] for run in json.loads(listed.stdout)]


def test_a_run_that_fails_there_ends_with_3_and_its_words_and_is_tried_again(head, home):
    words = ("submit", "evaluate", "no-run")
    told = visage(head, home, *words, "--json")
    assert told.returncode == 3, told.stderr
    assert "it has no recipe.yaml" in told.stderr
    first = json.loads(told.stdout)
    second = json.loads(visage(head, home, *words, "--json").stdout)
    assert (first["state"], second["run"]) == ("failed", f"{first['run']}-2")


def test_a_dry_run_sends_nothing(head, home):
    told = visage(head, home, "submit", "release", "x", "--as", "faceid", "--dry-run")
    assert told.returncode == 0, told.stderr
    assert "command   visage release" in told.stdout
    listed = visage(head, home, "runs", "--json")
    assert "release" not in [run["kind"] for run in json.loads(listed.stdout)]


def test_ctrl_c_leaves_the_run_and_stop_ends_it(head, home):
    words = [VISAGE, "submit", *CURATE, "--store", "other", "--address", head.address]
    run = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home,
        env=head.environment,
    )  # fmt: skip
    name = run.stdout.readline().split()[1]
    while run.poll() is None:  # until it is there
        if name in visage(head, home, "runs").stdout:
            break
    run.send_signal(signal.SIGINT)
    _, complaint = run.communicate(timeout=60)
    assert run.returncode == 130, complaint
    assert f"{name} goes on" in complaint
    stopped = visage(head, home, "runs", name, "--stop")
    assert "is told to end" in stopped.stdout, stopped.stderr
    assert visage(head, home, "runs", name, "--follow").returncode == 1
    assert "stopped" in visage(head, home, "runs", name).stdout


def test_a_run_may_wait_for_what_the_cluster_has_not_yet(head, home):
    words = ("train", "tiny", "--data.path", "x", "--scale.use-gpu")
    assert visage(head, home, "submit", *words).returncode == 2
    told = visage(head, home, "submit", *words, "--wait", "--detach", "--json")
    assert told.returncode == 0, told.stderr
    waiting = json.loads(told.stdout)
    assert waiting["state"] == "waiting"
    shown = visage(head, home, "runs", waiting["run"]).stdout
    assert "may be waiting for resources" in shown
    stopped = visage(head, home, "runs", waiting["run"], "--stop").stdout
    assert "ends it when it gets what it waits for" in stopped


@pytest.mark.parametrize(
    ("words", "environment", "told"),
    [
        (
            ["prepare", "tiny", "--corpus", "x", "--gpus-per-task", "1"],
            {},
            "it would wait for ever",
        ),
        (["evaluate", "x"], {"RAY_AUTH_MODE": "disabled"}, "it wants a token, and none was sent"),
        (["evaluate", "x"], {"RAY_AUTH_TOKEN": "f" * 32}, "it does not accept the token"),
    ],
)
def test_what_cannot_work_is_refused_before_it_is_sent(head, home, words, environment, told):
    if "RAY_AUTH_TOKEN" in environment:
        environment = environment | {"RAY_AUTH_TOKEN_PATH": ""}
    refused = visage(head, home, "submit", *words, **environment)
    assert refused.returncode == 2, refused.stderr
    assert told in refused.stderr
    assert "Traceback" not in refused.stderr
