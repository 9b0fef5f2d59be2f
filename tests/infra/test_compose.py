import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.infra.manifests import INFRA, image_problem, inline_secrets

FOLDER = INFRA / "compose"
COMPOSE = FOLDER / "compose.yaml"


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load(COMPOSE.read_text())


def schema_problems(path):
    told = subprocess.run(
        [
            *(Path(sys.executable).parent / "check-jsonschema", "--builtin-schema"),
            *("vendor.compose-spec", path),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return "" if told.returncode == 0 else told.stdout + told.stderr


def problems(name, service):
    """What a service lacks of what we ask of every service."""
    wanted = {
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    }
    found = [f"{name}: {key}" for key, value in wanted.items() if service.get(key) != value]
    needed = ("mem_limit", "cpus", "pids_limit", "healthcheck", "restart", "logging")
    found += [f"{name}: {key}" for key in needed if not service.get(key)]
    if service.get("privileged") or service.get("network_mode") == "host":
        found.append(f"{name}: privileged")
    if image_problem(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", service["image"])):
        found.append(f"{name}: image {service['image']}")
    ports, tmpfs = service.get("ports", []), service.get("tmpfs", [])
    found += [f"{name}: port {port}" for port in ports if not port.startswith("127.0.0.1:")]
    return found + [f"{name}: tmpfs {m}" for m in tmpfs if "noexec,nosuid,nodev,size=" not in m]


def test_compose_keeps_to_its_schema():
    assert schema_problems(COMPOSE) == ""


def test_a_misspelt_key_of_compose_is_found(tmp_path, compose):
    wrong = copy.deepcopy(compose)
    wrong["services"]["mlflow"]["healthchek"] = {}
    path = tmp_path / "compose.yaml"
    path.write_text(yaml.safe_dump(wrong))
    assert "healthchek" in schema_problems(path)


def test_every_service_is_confined_bounded_and_on_loopback(compose):
    assert [p for item in compose["services"].items() for p in problems(*item)] == []


def test_a_service_that_lacks_something_is_found(compose):
    wrong = compose["services"]["mlflow"] | {
        "read_only": False,
        "image": "mlflow:latest",
        "ports": ["5000:5000"],
        "pids_limit": None,
    }
    assert problems("m", wrong) == [
        "m: read_only",
        "m: pids_limit",
        "m: image mlflow:latest",
        "m: port 5000:5000",
    ]


def test_only_who_hands_a_volume_over_is_root_and_nobody_else_has_a_capability(compose):
    root = [n for n, s in compose["services"].items() if str(s.get("user", "")).startswith("0")]
    capable = [n for n, s in compose["services"].items() if s.get("cap_add")]
    assert root == capable == ["s3-owner"]
    assert compose["services"]["s3-owner"]["network_mode"] == "none"


def test_secrets_come_from_files_and_every_file_is_written_by_the_script(compose, tmp_path):
    assert list(inline_secrets(compose["services"])) == []
    shutil.copy(FOLDER / "make-secrets.sh", tmp_path)
    made = subprocess.run(
        ["sh", tmp_path / "make-secrets.sh"], capture_output=True, text=True, timeout=30
    )
    assert made.returncode == 0, made.stderr
    wanted = {entry["file"] for entry in compose["secrets"].values()}
    assert wanted == {f"secrets/{path.name}" for path in (tmp_path / "secrets").iterdir()}
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    used = {
        secret if isinstance(secret, str) else secret["source"]
        for service in compose["services"].values()
        for secret in service.get("secrets", [])
    }
    assert used == set(compose["secrets"])


def test_secrets_that_are_there_are_kept_and_fit_one_another(tmp_path):
    shutil.copy(FOLDER / "make-secrets.sh", tmp_path)
    command = ["sh", tmp_path / "make-secrets.sh"]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    folder = tmp_path / "secrets"
    before = {path.name: path.read_text() for path in folder.iterdir()}
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    assert before["postgres_password"] in before["mlflow_backend_store_uri"]
    assert before["mlflow_admin_password"] in before["mlflow_credentials"]
    key = json.loads(before["s3_identities.json"])["identities"][0]["credentials"][0]["secretKey"]
    assert f"aws_secret_access_key = {key}\n" in before["s3_credentials"]
    assert len(before["ray_token"]) == 48


def test_every_variable_has_a_default_and_a_line_in_the_example():
    text = COMPOSE.read_text()
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    assert set(re.findall(r"(?<!\$)\$\{(\w+)", text)) == set(used)
    lines = (FOLDER / ".env.example").read_text().splitlines()
    told = dict(line.split("=") for line in lines if line and not line.startswith("#"))
    assert told == used


def test_every_file_that_is_mounted_is_there_and_nothing_of_ours_can_be_written(compose):
    volumes = [v for s in compose["services"].values() for v in s.get("volumes", [])]
    files = [volume for volume in volumes if volume.startswith(".")]
    assert files
    assert [f for f in files if not f.endswith(":ro")] == []
    assert [f for f in files if not (FOLDER / f.split(":")[0]).exists()] == []
    assert {v.split(":")[0] for v in volumes if not v.startswith(".")} == set(compose["volumes"])


def test_ray_asks_for_its_token_and_databases_reach_nothing_outside(compose):
    ray = compose["services"]["ray"]["environment"]
    assert ray["RAY_AUTH_MODE"] == "token"
    assert ray["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
    assert compose["networks"]["stores"] == {"internal": True}
    assert compose["services"]["postgres"]["networks"] == ["stores"]
    assert "basic-auth" in (INFRA / "images" / "mlflow-entrypoint.sh").read_text()
