"""The first thing that a newcomer sees."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stages.columns import ERRORS, REJECTIONS

pytestmark = pytest.mark.ray
VISAGE = str(Path(sys.executable).with_name("visage"))


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The quickstart's folder and words."""
    home = tmp_path_factory.mktemp("quickstart")
    told = subprocess.run(
        [VISAGE, "quickstart", "--folder", "here"],
        cwd=home, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    (record,) = (home / "here/store").glob("*/run.json")
    return home, told, json.loads(record.read_text())


def test_every_kind_of_trap_is_met_and_named(shown):
    _, _, record = shown
    assert set(record["error"]) == set(ERRORS) - {
        "bad_url", "connect", "dns", "http_other", "missing_file", "stage_failed",
    }  # fmt: skip
    assert set(record["reject"]) >= {
        "duplicate_url", "declared_small", "no_human_term", "small_picture", "no_face",
        "too_many_faces", "exact_duplicate", "near_duplicate",
    }  # fmt: skip
    assert set(record["reject"]) <= set(REJECTIONS)


def test_people_are_kept_and_every_row_is_accounted_for(shown):
    _, _, record = shown
    assert record["keep"] >= 10
    assert record["rows"] == record["keep"] + sum(
        [*record["reject"].values(), *record["error"].values()]
    )


def test_it_ends_by_saying_where_things_are_and_what_to_try(shown):
    home, told, record = shown
    assert record["report"] in told.stdout.replace("\n", "")
    assert Path(record["report"]).is_relative_to(home)
    assert [line.split()[0] for line in told.stdout.splitlines()[-3:]] == [
        "visage",
        "visage",
        "mlflow",
    ]


def test_nothing_but_ours_is_said(shown):
    _, told, _ = shown
    assert told.stderr == ""
    assert "INFO" not in told.stdout
    assert "Warning" not in told.stdout
