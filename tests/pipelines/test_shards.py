"""The same shards by threads, by workers and by workers that die, with the same answers."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from infra.errors import BadValue
from pipelines.shards import OnCluster, hands
from stages.copies import bands, semantic
from stages.copies.bands import near_in_slice
from stages.copies.looks import Groups, Looks
from stages.copies.semantic import join_alike, on_grid
from stages.people import graph
from stages.people.graph import knn_graph, prepare
from stages.spread import HERE, InThreads, Spread
from tests.stages.people.crowds import crowd

pytestmark = pytest.mark.ray
ROWS = 1200


@pytest.fixture
def looks():
    """Hashes, of which the second half is near to the first."""
    draw = np.random.default_rng(0)
    base = draw.integers(0, 256, (ROWS // 2, 32), dtype=np.uint8)
    near = base ^ np.packbits(draw.random((ROWS // 2, 256)) < 0.1, axis=1)
    return Looks(np.concatenate([base, near]), draw.permutation(np.concatenate([base, near])))


def near(looks, spread):
    groups = Groups(len(looks))
    bands.compare_banded(looks, 31, groups, spread, slices=2)
    return groups.labels.tolist()


def alike(looks, spread):
    groups = Groups(len(looks))
    points = on_grid(np.random.default_rng(1).normal(size=(ROWS, 32)))
    join_alike(points, looks, groups, min_cosine=0.5, max_distance=128, spread=spread)
    return groups.labels.tolist()


def neighbours(_, spread):
    points, _ = prepare(crowd(people=60, photos=20)[1], "cosine")
    found = knn_graph(points, 8, spread)
    return found.rows.tolist(), found.squared.tolist()


@pytest.mark.parametrize("part", [near, alike, neighbours])
def test_workers_answer_as_threads_do(local_ray, looks, part, monkeypatch):
    monkeypatch.setattr(semantic, "ROWS_PER_CELL", 300)
    monkeypatch.setattr(semantic, "_ROWS_PER_SHARD", 400)
    monkeypatch.setattr(graph, "EXACT_ROWS", 1000)
    monkeypatch.setattr(graph, "_ROWS_PER_SHARD", 250)
    here = part(looks, InThreads(1))
    assert part(looks, OnCluster(1)) == here
    assert part(looks, OnCluster(2 * local_ray)) == here


def dies_once(shard, folder, *shared):
    """Search a slice; the first time that it is the fourth one, kill the worker instead."""
    died = Path(folder) / "died"
    if (shard.band, shard.number) == (1, 1) and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return near_in_slice(shard, *shared)


def test_a_worker_that_dies_changes_nothing(local_ray, looks, tmp_path):
    def mortal(work, shards, *shared):
        assert work is near_in_slice
        return OnCluster(2 * local_ray)(dies_once, shards, str(tmp_path), *shared)

    assert near(looks, mortal) == near(looks, HERE)
    assert (tmp_path / "died").exists()


def slow_at_first(shard, folder):
    """Wait, as the first shard, until the last one is done."""
    done = Path(folder) / "done"
    while shard == 0 and not done.exists():
        time.sleep(0.01)
    if shard == 3:
        done.touch()
    return shard


@pytest.mark.usefixtures("local_ray")
def test_answers_come_in_the_order_of_the_shards(tmp_path):
    assert list(OnCluster(2)(slow_at_first, range(4), str(tmp_path))) == [0, 1, 2, 3]
    assert list(OnCluster(2)(slow_at_first, [], str(tmp_path))) == []


def refuse(shard):
    raise BadValue("shard", shard, "give another.")


@pytest.mark.usefixtures("local_ray")
def test_an_error_of_ours_comes_back_as_itself():
    with pytest.raises(BadValue, match="give another"):
        list(OnCluster(2)(refuse, [1]))


def test_one_machine_works_in_threads(local_ray):
    assert hands(local_ray) == InThreads(local_ray)
    assert isinstance(OnCluster(1), Spread)
