"""The command as people type it: exit codes, sentences, speed."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines import cli

VISAGE = str(Path(sys.executable).with_name("visage"))


def visage(*arguments, cwd=None):
    return subprocess.run(
        [VISAGE, *arguments], capture_output=True, text=True, cwd=cwd, timeout=100, check=False
    )


def test_help_comes_within_a_second():
    began = time.monotonic()
    told = visage("--help")
    assert time.monotonic() - began < 1.0
    assert told.returncode == 0
    assert all(verb in told.stdout for verb in cli.VERBS)


def test_python_m_pipelines_is_the_same_command():
    told = subprocess.run(
        [sys.executable, "-m", "pipelines", "--version"], capture_output=True, text=True, check=True
    )
    assert told.stdout == visage("--version").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["curat"], "Did you mean 'curate'?"),
        (["curate", "lwf"], "Did you mean 'lfw'?"),
        (["curate", "lfw"], "Name one with --source.path."),
        (["curate", "lfw", "--keep.min-sid-px", "3"], "Did you mean '--keep.min-side-px'?"),
        (["curate", "lfw", "--keep.min-faces", "9"], "keep.min_faces cannot be 9"),
        (["curate", "lfw", "--faces.backend", "dlb"], "Expected one of"),
        (["curate", "lfw", "--keep.max-faces", "many"], "--keep.max-faces"),
        (["curate", "lfw", "--source.path", "/no/such/place"], "it does not exist"),
        (["curate", "lfw", "--source.path", "{here}/t.csv", "--fetch.allow-loopback"],
         "no column 'url'"),
        (["curate", "lfw", "--source.path", "{here}/ok.csv", "--store", "{here}/t.csv",
          "--fetch.contact", "me@lab.example"], "--store"),
        (["curate", "lfw", "--source.path", "{here}/ok.csv"], "fetch.contact cannot be ''"),
        (["curate", "lfw", "--source.path", "{here}/ok.csv", "--retry-errors", "timout"],
         "Did you mean 'timeout'?"),
        (["curate", "{here}/bad.yaml"], "has no setting 'min_side'"),
        (["curate", "{here}/worse.yaml"], "it is not YAML"),
        (["curate", "photos", "--faces.backend", "insightface"], "faces.pack"),
        (["curate", "photos", "--source.path", "{here}/ok.csv", "--faces.backend", "insightface",
          "--faces.pack", "{here}/no-pack", "--fetch.allow-loopback"], "pack"),
    ],
)  # fmt: skip
def test_bad_input_ends_with_one_clear_message_and_code_2(tmp_path, arguments, words):
    (tmp_path / "t.csv").write_text("link\nhttp://127.0.0.1/1.jpg\n")
    (tmp_path / "ok.csv").write_text("url\nhttp://127.0.0.1/1.jpg\n")
    (tmp_path / "bad.yaml").write_text("keep: {min_side: 3}\n")
    (tmp_path / "worse.yaml").write_text("keep: [\n")
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    told = visage(*(a.format(here=tmp_path) for a in arguments), cwd=tmp_path)
    assert told.returncode == 2, told.stderr
    assert words in told.stderr
    assert "Traceback" not in told.stdout + told.stderr
    assert all(p.read_bytes() == content for p, content in before.items())


def test_a_dry_run_prints_the_plan_and_touches_nothing(tmp_path):
    (tmp_path / "t.csv").write_text("url\nhttp://127.0.0.1/1.jpg\n")
    told = visage(
        "curate", "photos", "--source.path", "t.csv", "--keep.min-side-px", "77", "--dry-run",
        cwd=tmp_path,
    )  # fmt: skip
    assert told.returncode == 0
    assert "min_side_px: 77" in told.stdout
    assert "dedupe -> caption -> captioned -> people -> export" in told.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_every_setting_is_listed_with_its_value():
    told = visage("curate", "faceid_6m", "--help")
    assert told.returncode == 0
    assert "--keep.min-face-share" in told.stdout
    assert "0.04" in told.stdout


def test_a_package_that_hides_one_of_ours_is_named(tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training/__init__.py").write_text("")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from pipelines.cli import main; sys.exit(main(['--help']))"  # noqa: E501
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert told.returncode == 2
    assert str(tmp_path / "training/__init__.py") in told.stderr


def test_ctrl_c_says_how_to_go_on(capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    assert cli._guarded(interrupted, []) == 130
    assert "the same command goes on" in capsys.readouterr().err
