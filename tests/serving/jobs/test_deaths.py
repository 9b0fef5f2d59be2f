"""Workers and databases that are killed: every job ends once."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from serving.database import reading
from serving.jobs.tables import EVENTS, VIDEOS
from tests.e2e.services import mortal_postgres
from tests.serving.jobs.drawers import Home, until
from tests.serving.jobs.mortal import BYTES, SETTINGS, log

ROOT = Path(__file__).parents[3]
WITHIN_S = 240


def start(home, records=""):
    command = [sys.executable, "-m", "tests.serving.jobs.mortal", str(home), records]
    with (Path(home) / "worker.log").open("a") as out:
        return subprocess.Popen(command, cwd=ROOT, stderr=out)


def completed(home):
    """Count the jobs that are done; None: the database is away."""
    done = select(func.count()).select_from(VIDEOS).where(VIDEOS.c.status == "completed")
    try:
        with reading(home.engine) as connection:
            return connection.execute(done).scalar_one()
    except DBAPIError:
        return None


def assert_that_each_ended_once(home, tmp_path, ids):
    with reading(home.engine) as connection:
        statuses = dict(connection.execute(select(VIDEOS.c.id, VIDEOS.c.status)).all())
        ends = select(EVENTS.c.video).where(EVENTS.c.status.not_in(("queued", "in_progress")))
        ended = Counter(connection.execute(ends).scalars())
        begun = connection.execute(select(func.sum(VIDEOS.c.fence))).scalar_one()
    assert statuses == dict.fromkeys(ids, "completed")
    assert ended == Counter(ids)
    made = Counter(log(tmp_path).read_text().split())
    assert set(made) <= set(ids)
    assert max(made.values()) == 1
    for job in (home.jobs.get(one, "") for one in ids):
        assert home.files.path(job, job.result_ref).read_bytes() == BYTES
        assert home.on_disk(job) == [job.result_ref]
    return begun


@pytest.mark.slow
def test_a_thousand_jobs_whose_workers_are_killed_ten_times_each_end_once(tmp_path):
    home, rng = Home(tmp_path, **SETTINGS), random.Random(0)
    ids = [home.add(seed=seed, steps=1).id for seed in range(1000)]
    kills = sorted(rng.sample(range(20, 960), 10))
    workers = [start(tmp_path) for _ in range(2)]
    ends = time.monotonic() + WITHIN_S
    try:
        while (done := completed(home)) < len(ids):
            assert time.monotonic() < ends, f"{done} done, {len(kills)} kills to go"
            if kills and done >= kills[0]:
                del kills[0]
                victim = workers.pop(0)
                victim.send_signal(signal.SIGKILL)
                victim.wait()
                workers.append(start(tmp_path))
            time.sleep(0.02)
        assert not kills
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    begun = assert_that_each_ended_once(home, tmp_path, ids)
    assert begun > len(ids)  # some were killed in the midst of a job


@pytest.mark.slow
def test_jobs_whose_database_is_killed_and_comes_back_each_end_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    with mortal_postgres() as (url, started):
        url, workers, ids = url.replace(":hunter2@", "@"), [], []
        try:
            for done in (60, 120, 200):
                with started(signal.SIGKILL):  # at the end of this block, with all that it runs
                    if not ids:
                        home = Home(tmp_path, url, **SETTINGS)
                        ids = [home.add(seed=seed, steps=1).id for seed in range(200)]
                        workers = [start(tmp_path, url) for _ in range(2)]
                        ready = [tmp_path / f"ready-{worker.pid}" for worker in workers]
                        until(lambda: all(one.exists() for one in ready), 60)  # noqa: B023
                    until(lambda: (completed(home) or 0) >= done, WITHIN_S / 2)  # noqa: B023
                    if done == len(ids):
                        assert_that_each_ended_once(home, tmp_path, ids)
            assert [worker.poll() for worker in workers] == [None, None]
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
