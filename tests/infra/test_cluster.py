import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.cluster import ROOT, SPARE_CPUS, runtime_env


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_only_the_cpus_that_this_process_may_use_are_counted():
    code = "import os; os.sched_setaffinity(0, [0]); from infra import cluster as c; "
    code += "print(c.usable_cpus())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "1"


@pytest.mark.ray
def test_an_embedded_ray_leaves_room_beside_the_pools(local_ray):
    import ray

    assert local_ray == 2
    assert ray.cluster_resources()["CPU"] == 2 + SPARE_CPUS
    token = Path.home() / ".ray/auth_token"
    assert not token.exists() or not token.stat().st_mode & 0o077, "others can read the token"


def test_a_cluster_is_sent_this_tree_without_its_tests():
    assert runtime_env() == {"working_dir": str(ROOT), "excludes": ["/tests"]}


def test_an_installed_wheel_sends_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr("infra.cluster.ROOT", tmp_path)
    assert runtime_env() == {}


def test_a_run_that_was_submitted_with_its_code_sends_none(monkeypatch):
    given = '{"runtime_env": {"working_dir": "gcs://_ray_pkg_1.zip"}}'
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", given)
    assert runtime_env() == {}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"runtime_env": {"env_vars": {}}}')
    assert runtime_env()["working_dir"] == str(ROOT)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("http://127.0.0.1:8265", "that is a dashboard, for `visage submit`"),
        ("127.0.0.1:1", "no Ray cluster answers there"),
    ],
)
def test_an_address_where_no_cluster_is_is_refused_at_once(address, told):
    """In a process of its own: here Ray may be joined."""
    code = "from infra.cluster import cluster; cluster().__enter__()"
    asked = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "RAY_ADDRESS": address}, cwd=ROOT,
    )  # fmt: skip
    assert f"the cluster's address cannot be {address!r}: {told}" in asked.stderr
