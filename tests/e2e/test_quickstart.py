"""The quickstart as a stranger meets it: a fresh folder, Ctrl-C, the same again, its own lines."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image

from pipelines.runs import look
from stages.columns import ERRORS, REJECTIONS
from tests.pipelines.quickstart.test_web import TRAPS
from training.evaluation.drawing import Photographs
from training.features import Prepared
from training.nets.codec import load_codec

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
BIN = Path(sys.executable).parent
ENVIRONMENT = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "2"}


def quickstart(home):
    """Carry it out to its end."""
    told = subprocess.run(
        ["visage", "quickstart", "--json"],
        cwd=home, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout.splitlines()[-1]), told.stderr


def shell(home, line):
    """Type a line into that folder."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        cwd=home, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@contextmanager
def deployed(home, line, url):
    """Serve in the background what a printed line serves."""
    with subprocess.Popen(
        ["bash", "-c", f"exec {line}"], cwd=home, env=ENVIRONMENT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    ) as serving:  # fmt: skip
        try:
            until = time.monotonic() + 180
            while not ready(url):
                assert serving.poll() is None, "it ended"
                assert time.monotonic() < until, "it does not become ready"
                time.sleep(0.5)
            yield
        finally:
            os.killpg(serving.pid, signal.SIGINT)
            assert serving.wait(90) == 0


def ready(url):
    try:
        return httpx2.get(f"{url}/v1/health/ready").status_code == 200
    except httpx2.HTTPError:
        return False


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A fresh folder in which Ctrl-C came in the middle of the training; what was said."""
    home = tmp_path_factory.mktemp("stranger")
    with subprocess.Popen(
        ["visage", "quickstart"],
        cwd=home, env=ENVIRONMENT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as begun:  # fmt: skip
        said = []
        for line in begun.stdout:
            said.append(line)
            if line.startswith("step 100 of 400"):
                os.killpg(begun.pid, signal.SIGINT)
        code = begun.wait(60)
    return home, code, "".join(said)


@pytest.fixture(scope="module")
def finished(interrupted):
    """The same command again, to its end."""
    home, *_ = interrupted
    return home, *quickstart(home)


def test_ctrl_c_says_that_the_same_command_goes_on(interrupted):
    home, code, said = interrupted
    assert code == 130
    assert said.splitlines()[-1].endswith("the same command goes on from there.")
    (folder,) = (home / "quickstart/store").glob("quickstart-loop-*")
    (seen,) = look(folder)
    assert (seen.state, seen.next) == ("stopped", "visage quickstart")


def test_every_kind_of_trap_is_met_and_named(finished):
    _, done, _ = finished
    run = Path(done["steps"]["curate"]["result"]["path"], "run.json")
    record = json.loads(run.read_text())
    assert set(record["error"]) == set(TRAPS.values())
    assert set(record["error"]) <= set(ERRORS)
    assert set(record["reject"]) <= set(REJECTIONS)
    assert record["keep"] >= 10
    ended = [record["keep"], *record["reject"].values(), *record["error"].values()]
    assert record["rows"] == sum(ended)


def test_it_goes_on_and_ends_with_a_picture_and_two_answers(finished):
    home, done, _ = finished
    reused = [name for name, step in done["steps"].items() if step["reused"]]
    assert reused == ["curate", "prepare"]
    reports = Path(done["steps"]["train"]["result"]["path"], "reports.jsonl").read_text()
    steps = [json.loads(line)["step"] for line in reports.splitlines()]
    assert steps == sorted(set(steps))
    assert done["model"] == "quickstart/1"
    assert done["same"]["same_person"]
    assert not done["another"]["same_person"]
    assert Path(done["drawn"]) == home / "quickstart/drawn.png"
    assert done["signed"]["verdict"] == "made_here"


def test_shots_tracks_and_people_of_the_film_are_as_they_were_made(finished):
    _, done, said = finished
    film = done["film"]
    assert film["shots"] > film["clips"] > 1
    assert [film[f"{each}_right"] for each in ("shots", "clips", "pairs")] == [
        film[each] for each in ("shots", "clips", "pairs")
    ]
    assert "pairs of people are as they were made" in said
    assert f"{Path(film['path']).name} was finished at" in said
    assert Path(film["report"]).exists()


def test_what_is_drawn_is_more_like_the_person_than_like_anybody_else(finished):
    """Pixels will do: it learnt six people by heart."""
    _, done, _ = finished
    with Image.open(done["drawn"]) as image:
        assert image.size == (64, 64)
        drawn = np.asarray(image.convert("L").resize((32, 32))).astype(float)
    near = {who: np.corrcoef(drawn.ravel(), each)[0, 1] for who, each in faces(done).items()}
    assert max(near, key=near.get) == "astronaut", near
    assert near["astronaut"] > 0.7


def faces(done):
    """Return everybody's mean face as the model saw it, 32 x 32 grey levels in a row."""
    prepared = Prepared(Path(done["steps"]["prepare"]["result"]["path"]))
    codec = load_codec(prepared.features.codec, prepared.folder)
    seen = Photographs(prepared, codec, "cpu")(np.arange(len(prepared.people)))
    grey = [
        np.asarray(Image.fromarray(face).convert("L").resize((32, 32))).astype(float).ravel()
        for face in seen
    ]
    return {
        who: np.mean([g for g, p in zip(grey, prepared.people, strict=True) if p == who], axis=0)
        for who in set(prepared.people)
    }


def test_it_leaves_no_server_behind(finished):
    _, done, _ = finished
    with socket.socket() as asking:
        assert asking.connect_ex(("127.0.0.1", httpx2.URL(done["url"]).port)) != 0


def test_the_report_says_what_so_few_people_cannot_tell(finished):
    _, done, said = finished
    page = Path(done["report"]).read_text()
    assert "2 held-out people are too few" in page
    assert "2 held-out people are too few" in said
    assert "Warning" not in said
    assert "raylet" not in said


def test_the_printed_lines_work_as_they_are(finished):
    home, done, said = finished
    tried = done["try"]
    for line in (tried["deploy"], *tried["curl"], *tried["python"].splitlines()):
        assert line in said
    with deployed(home, tried["deploy"], done["url"]):
        verify, draw = (shell(home, line) for line in tried["curl"])
        assert verify.returncode == draw.returncode == 0, verify.stdout + draw.stderr
        assert json.loads(verify.stdout)["same_person"]
        again = home / "quickstart/again.png"
        with Image.open(again) as image:
            assert image.size == (64, 64)
        again.unlink()
        (home / "try.py").write_text(tried["python"])
        told = shell(home, "python try.py")
        assert (told.returncode, told.stdout) == (0, "True\n"), told.stderr
        assert again.exists()


def test_a_second_time_nothing_is_done_twice_but_serving_which_may_go_on(finished):
    home, first, _ = finished
    with subprocess.Popen(
        ["visage", "quickstart", "--serve", "--json"],
        cwd=home, env=ENVIRONMENT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as serving:  # fmt: skip
        try:
            done = json.loads(serving.stdout.readline())
            verify = shell(home, done["try"]["curl"][0])
        finally:
            os.killpg(serving.pid, signal.SIGINT)
        assert serving.wait(90) == 0
    assert json.loads(verify.stdout)["same_person"]
    assert [name for name, step in done["steps"].items() if not step["reused"]] == ["deploy"]
    assert (done["model"], done["drawn"]) == (first["model"], first["drawn"])
