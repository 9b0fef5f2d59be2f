"""Runs that are killed, and finished by the same command."""

import json
import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow.dataset as pads
import pytest

from tests.e2e.albums import curating, save_crops

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PICTURES = 150


@pytest.fixture(scope="module")
def album(tmp_path_factory, astronaut):
    folder = tmp_path_factory.mktemp("album")
    save_crops(astronaut, folder, PICTURES)
    return folder


def command(album, store):
    return curating(album, store, block_rows=10)


def finish(album, store):
    told = subprocess.run(
        command(album, store), capture_output=True, text=True, timeout=200, check=False
    )
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout.splitlines()[-1])


def start(album, store):
    return subprocess.Popen(
        command(album, store), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


def blocks(store):
    return sorted(store.glob("*/ingest/data/status=*/*.parquet"))


def wait_for_blocks(run, store, number):
    """Wait until some blocks are written; return them."""
    for _ in range(1000):
        if len(found := blocks(store)) >= number or run.poll() is not None:
            return found
        time.sleep(0.1)
    raise AssertionError("nothing was written")


@pytest.fixture(scope="module")
def undisturbed(album, tmp_path_factory):
    return finish(album, tmp_path_factory.mktemp("undisturbed"))


def decided(result):
    return b"".join(p.read_bytes() for p in sorted(Path(result["path"], "decisions").iterdir()))


def assert_whole(result, undisturbed):
    """Check that a disturbed run ended as the other did, with no row lost or doubled."""
    rows = pads.dataset(Path(result["path"], "ingest/data")).to_table(columns=["id"])
    ids = rows["id"].to_pylist()
    assert len(ids) == len(set(ids)) == PICTURES
    assert decided(result) == decided(undisturbed)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("after", [1, pytest.param(6, marks=pytest.mark.long)])
def test_after_kill_9_the_same_command_finishes_without_losing_or_doubling_a_row(
    album, undisturbed, tmp_path, after
):
    run = start(album, tmp_path)
    before = wait_for_blocks(run, tmp_path, after)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    result = finish(album, tmp_path)
    assert_whole(result, undisturbed)
    assert len(before) >= after


@pytest.mark.timeout(400)
def test_after_ctrl_c_the_same_command_goes_on(album, undisturbed, tmp_path):
    run = start(album, tmp_path)
    wait_for_blocks(run, tmp_path, 3)
    os.kill(run.pid, signal.SIGINT)
    assert run.wait(60) == 130
    kept = set(blocks(tmp_path))
    result = finish(album, tmp_path)
    assert_whole(result, undisturbed)
    assert len(kept & set(blocks(tmp_path))) > 0, "what was done was done again"


def lookers(run):
    """List the processes of a run that look at pictures."""
    found = []
    for process in psutil.Process(run.pid).children(recursive=True):
        with suppress(psutil.Error):
            if "MapWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.mark.long
@pytest.mark.timeout(400)
def test_workers_and_driver_killed_at_random_moments_change_nothing(album, undisturbed, tmp_path):
    rng, killed, ends = random.Random(6), 0, time.monotonic() + 200
    drivers = 0
    while drivers < 2:
        run = start(album, tmp_path)
        wait_for_blocks(run, tmp_path, len(blocks(tmp_path)) + 1)
        for _ in range(3):
            time.sleep(rng.uniform(0.05, 1.5))
            if there := lookers(run):
                with suppress(psutil.Error):
                    rng.choice(there).kill()
                    killed += 1
        time.sleep(rng.uniform(0.05, 1.5))
        if run.poll() is not None:
            break
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        drivers += 1
        assert time.monotonic() < ends
    assert_whole(finish(album, tmp_path), undisturbed)
    assert killed >= 2, "the run was over too soon to kill workers"
