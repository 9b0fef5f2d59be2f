"""What several tests share: a local Ray, a place with photographs, photographs of packages."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

# Tests say themselves where MLflow is; a developer's server must not be written to.
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("RAY_ADDRESS", None)


@pytest.fixture(scope="session")
def local_ray():
    """Two CPUs of this machine as a Ray cluster, for the whole session."""
    import ray

    from infra.cluster import cluster

    with cluster(cpus=2) as cpus:
        yield cpus
    assert not ray.is_initialized()


@pytest.fixture(scope="session")
def photographs():
    """The folder with lfw-dev.tar, where the machine has it."""
    folder = Path(os.environ.get("VISAGE_TEST_DATA", "no such folder"))
    if not (folder / "lfw-dev.tar").exists():
        pytest.skip("VISAGE_TEST_DATA names no folder with lfw-dev.tar")
    return folder


def packaged(package, path):
    """Return a file inside an installed package, without importing it."""
    return Path(find_spec(package).submodule_search_locations[0]) / path


@pytest.fixture(scope="session")
def astronaut():
    """A photograph of one person, 512 x 512, public domain (NASA)."""
    return packaged("skimage", "data/astronaut.png")


@pytest.fixture(scope="session")
def six_people():
    """A photograph of six people, 1280 x 886."""
    return packaged("insightface", "data/images/t1.jpg")
