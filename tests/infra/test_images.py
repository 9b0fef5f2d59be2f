import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infra.manifests import INFRA, pinned, project

FOLDER = INFRA / "images"
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))
OURS = ("curate", "train", "serve")


def hadolint(path):
    return subprocess.run(
        [Path(sys.executable).parent / "hadolint", "-c", FOLDER / ".hadolint.yaml", path],
        capture_output=True,
        text=True,
        timeout=60,
    )


def argument(text, name):
    return re.search(rf"^ARG {name}=(\S+)$", text, re.MULTILINE)[1]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path):
    told = hadolint(path)
    assert told.returncode == 0, told.stdout + told.stderr


def test_hadolint_finds_what_is_wrong(tmp_path):
    wrong = tmp_path / "wrong.Dockerfile"
    wrong.write_text("FROM python:latest\nRUN cd /tmp\n")
    told = hadolint(wrong)
    assert told.returncode == 1
    assert "DL3007" in told.stdout
    assert "DL3003" in told.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_small_unprivileged_pinned_and_says_how_it_is(path):
    text = path.read_text()
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", argument(text, "BASE_IMAGE"))
    assert len(re.findall(r"^FROM ", text, re.MULTILINE)) == 2, "compilers stay in the first stage"
    users = re.findall(r"^USER (\S+)$", text, re.MULTILINE)
    assert users == ["10001:10001"], "a number, so that Kubernetes can see that it is not root"
    assert re.search(r"^HEALTHCHECK ", text, re.MULTILINE)
    assert argument(text, "VISAGE_VERSION") == project()["version"]
    for command in re.findall(r"pip install [^\n]*", text):
        assert "--constraint constraints.txt" in command, command
    assert not re.search(r"(password|secret|token)\s*=\s*(?!token\b)\S", text, re.IGNORECASE)


@pytest.mark.parametrize("name", OURS)
def test_an_image_has_the_ray_that_is_pinned_and_extras_that_there_are(name):
    text = (FOLDER / f"{name}.Dockerfile").read_text()
    assert argument(text, "RAY_VERSION") == pinned("ray")
    extras = re.search(r'"\.\[([a-z,]+)\]"', text)[1].split(",")
    assert set(extras) <= set(project()["optional-dependencies"]), "pip would only warn"


def test_mlflow_has_the_version_that_is_pinned():
    text = (FOLDER / "mlflow.Dockerfile").read_text()
    assert argument(text, "MLFLOW_VERSION") == pinned("mlflow")


def test_the_builder_is_sent_no_secrets_and_all_that_is_copied():
    for name in OURS:
        sent = (FOLDER / f"{name}.Dockerfile.dockerignore").read_text().splitlines()
        allowed = {line[1:].split("/")[0] for line in sent if line.startswith("!")}
        assert "*" in sent
        assert not {"!infra", "!infra/compose"} & set(sent)
        text = (FOLDER / f"{name}.Dockerfile").read_text()
        copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
        assert {part for line in copied for part in line.split()} == allowed


def entrypoint(env):
    return subprocess.run(
        ["sh", FOLDER / "mlflow-entrypoint.sh", "--port=1"],
        capture_output=True,
        text=True,
        timeout=30,
        env=env,
    )


@pytest.fixture
def mlflow_env(tmp_path):
    fake = tmp_path / "bin" / "mlflow"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "$@"\necho "$MLFLOW_FLASK_SERVER_SECRET_KEY"\n')
    fake.chmod(0o755)
    env = {"PATH": f"{fake.parent}:/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    for name, value in (
        ("MLFLOW_BACKEND_STORE_URI", "postgresql://u:p%40w@h/d"),
        ("MLFLOW_FLASK_SERVER_SECRET_KEY", "k"),
        ("MLFLOW_AUTH_ADMIN_PASSWORD", "a"),
    ):
        (tmp_path / name).write_text(value + "\n")
        env[f"{name}_FILE"] = str(tmp_path / name)
    return env


def test_mlflow_takes_its_secrets_from_files_and_keeps_them_off_the_command_line(
    mlflow_env, tmp_path
):
    told = entrypoint(mlflow_env)
    assert told.stdout.splitlines() == [
        "server --app-name basic-auth --serve-artifacts --port=1",
        "k",
    ]
    written = tmp_path / "mlflow-auth.ini"
    assert written.stat().st_mode & 0o777 == 0o600
    logins = configparser.ConfigParser()  # what MLflow reads it with
    logins.read(written)
    assert logins["mlflow"]["database_uri"] == "postgresql://u:p%40w@h/d"
    assert logins["mlflow"]["default_permission"] == "READ"


def test_mlflow_does_not_start_without_a_secret(mlflow_env):
    del mlflow_env["MLFLOW_AUTH_ADMIN_PASSWORD_FILE"]
    told = entrypoint(mlflow_env)
    assert told.returncode == 2
    assert "name a file with it as MLFLOW_AUTH_ADMIN_PASSWORD_FILE" in told.stderr
