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
