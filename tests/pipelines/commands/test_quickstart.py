"""The first thing that a newcomer sees."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.commands.quickstart import _port_of
from pipelines.quickstart.web import free_port
from stages.columns import ERRORS, REJECTIONS
from tests.pipelines.quickstart.test_web import TRAPS

pytestmark = pytest.mark.ray
VISAGE = str(Path(sys.executable).with_name("visage"))


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The quickstart's folder and words."""
    home = tmp_path_factory.mktemp("quickstart")
    told = subprocess.run(
        [VISAGE, "quickstart", "--only", "curate", "--folder", "here"],
        cwd=home, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    (record,) = (home / "here/store").glob("quickstart-*/run.json")
    return home, told, json.loads(record.read_text())


@pytest.mark.long
def test_every_kind_of_trap_is_met_and_named(shown):
    _, _, record = shown
    assert set(record["error"]) == set(TRAPS.values())
    assert set(record["error"]) <= set(ERRORS)
    assert set(record["reject"]) >= {
        "duplicate_url", "declared_small", "no_human_term", "small_picture", "no_face",
        "too_many_faces", "exact_duplicate", "near_duplicate",
    }  # fmt: skip
    assert set(record["reject"]) <= set(REJECTIONS)


@pytest.mark.long
def test_people_are_kept_and_every_row_is_accounted_for(shown):
    _, _, record = shown
    assert record["keep"] >= 10
    assert record["rows"] == record["keep"] + sum(
        [*record["reject"].values(), *record["error"].values()]
    )


@pytest.mark.long
def test_a_film_is_curated_too_and_held_against_the_truth(shown):
    home, told, _ = shown
    (line,) = [line for line in told.stdout.splitlines() if line.startswith("film ")]
    assert "4 of 4 shots, 3 of 3 tracks and 3 of 3 pairs of people" in line
    (report,) = (home / "here/store").glob("faceid_video-*/report.html")
    assert str(report) in told.stdout


@pytest.mark.long
def test_it_ends_by_saying_where_things_are_and_what_to_try(shown):
    home, told, record = shown
    assert record["report"] in told.stdout.replace("\n", "")
    assert Path(record["report"]).is_relative_to(home)
    assert [line.split()[0] for line in told.stdout.splitlines()[-3:]] == [
        "visage",
        "visage",
        "mlflow",
    ]


@pytest.mark.long
def test_the_port_of_an_earlier_call_is_found_in_its_table(shown, tmp_path):
    home, told, _ = shown
    assert f"http://127.0.0.1:{_port_of(home / 'here/urls.csv')}\n" in told.stdout
    assert _port_of(tmp_path / "none.csv") == 0


def test_a_port_that_is_taken_is_left_alone():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        taken = held.getsockname()[1]
        assert free_port(taken) not in (0, taken)
    assert free_port(0, taken) == taken


@pytest.mark.long
def test_nothing_but_ours_is_said(shown):
    _, told, _ = shown
    assert told.stderr == ""
    assert "INFO" not in told.stdout
    assert "Warning" not in told.stdout
