import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from infra.errors import BadValue
from serving.audit import Audit
from serving.errors import Refusal
from serving.jobs.settings import VideoSettings
from serving.types import Reference
from tests.e2e.services import postgres
from tests.serving.jobs.drawers import ASK, MODEL, Home

SECRET = "a prompt that nobody else has written"
WHO = Reference(vector=np.arange(3, dtype=np.float32), embedder="test@0")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def records(request, monkeypatch):
    if request.param == "sqlite":
        yield ""
        return
    with postgres() as url:
        monkeypatch.setenv("PGPASSWORD", "hunter2")
        yield url.replace(":hunter2@", "@")


@pytest.fixture
def home(tmp_path, records):
    made = Home(tmp_path, records)
    yield made
    made.engine.dispose()


def refused(code, call, *arguments, **named):
    with pytest.raises(Refusal) as error:
        call(*arguments, **named)
    assert error.value.code == code
    return error.value


def ended(home, status="completed"):
    """Return a job that has ended, its video made of one byte."""
    home.add(prompt=SECRET)
    job = home.leases.claim()
    if status == "failed":
        return home.leases.fail(job, "internal", "it failed")
    name = home.files.result(job)
    home.files.begin(job)
    home.files.path(job, name).write_bytes(b"x")
    return home.leases.complete(job, name)


def test_one_key_and_one_request_are_one_job_and_another_request_is_refused(home):
    first = home.add(key="k", seed=1)
    assert home.add(key="k", seed=1) == first
    no = refused("idempotency_conflict", home.add, key="k", seed=2)
    assert no.details == {"id": first.id}
    refused("idempotency_conflict", home.jobs.find, "", "k", "of another")
    assert home.add("somebody else", key="k", seed=2).id != first.id
    assert home.add(seed=1).id != home.add(seed=1).id
    assert len(home.jobs.list("", 10)) == 3


def test_a_request_that_comes_many_times_at_once_is_one_job(home):
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda _: home.add(key="k"), range(16)))
    assert {job.id for job in jobs} == {home.jobs.list("", 10)[0].id}


def test_workers_that_claim_at_once_never_share_a_job(home):
    asked = {home.add(seed=seed).id for seed in range(12)}
    with ThreadPoolExecutor(6) as pool:
        claimed = list(pool.map(lambda _: home.leases.claim(), range(16)))
    claimed = [job for job in claimed if job]
    rest = []
    while job := home.leases.claim():  # PostgreSQL's may pass one over that another looks at
        rest.append(job)
    ids = [job.id for job in claimed + rest]
    assert (len(ids), set(ids)) == (12, asked)


def test_pages_of_a_key_follow_one_another_both_ways(home):
    ids = [home.add(seed=seed).id for seed in range(5)]
    home.add("somebody else")
    for newest_first, expected in ((False, ids), (True, ids[::-1])):
        seen = []
        while page := home.jobs.list("", 2, seen[-1] if seen else "", newest_first=newest_first):
            seen += [job.id for job in page]
        assert seen == expected
    refused("unknown_video", home.jobs.list, "", 2, "video_" + "0" * 24)


def test_for_another_key_there_is_no_such_job(home):
    job = home.add()
    for call in (home.jobs.get, home.jobs.delete):
        assert "no video" in str(refused("unknown_video", call, job.id, "somebody else"))
    refused("unknown_video", home.jobs.events, job.id, "somebody else", 0)


def test_more_than_may_wait_are_told_to_come_back(tmp_path):
    home = Home(tmp_path, queue=2)
    home.add(key="k"), home.add()
    assert refused("overloaded", home.add).retry_after_s > 0
    assert home.add(key="k")  # which waits already
    home.leases.claim()
    assert home.add()


def test_a_vector_stays_no_longer_than_it_is_needed(home):
    job = home.add(reference=WHO)
    assert job.vector == WHO.vector.tobytes()
    assert "reference" not in job.asked
    assert home.jobs.delete(job.id, "").vector is None
    home.add(reference=WHO)
    assert home.leases.complete(home.leases.claim(), "result-1.mp4").vector is None
    home.add(reference=WHO)
    assert home.leases.fail(home.leases.claim(), "internal", "no").vector is None


def test_content_is_there_from_its_end_until_it_expires(tmp_path):
    home = Home(tmp_path, keep_s=1, listed_s=600)
    job = home.add()
    assert "queued, at 0 %" in str(refused("not_finished", home.jobs.result, job))
    refused("not_finished", home.jobs.result, home.leases.claim())
    home.jobs.delete(job.id, "")
    refused("no_result", home.jobs.result, home.jobs.get(job.id, ""))
    assert "it failed" in str(refused("no_result", home.jobs.result, ended(home, "failed")))
    done = ended(home)
    assert home.jobs.result(done) == "result-1.mp4"
    time.sleep(1.1)
    refused("video_expired", home.jobs.result, done)  # whether or not it was swept


def test_what_is_over_is_swept_off_the_disk(tmp_path, records):
    home = Home(tmp_path, records, keep_s=1, listed_s=600)
    done, waiting = ended(home), home.add()
    time.sleep(1.1)
    home.jobs.sweep()
    swept = home.jobs.get(done.id, "")
    assert (swept.status, swept.asked["prompt"], swept.result_ref) == ("completed", "", "")
    assert home.on_disk(done) == []
    refused("video_expired", home.jobs.result, swept)
    assert home.jobs.get(waiting.id, "").status == "queued"
    if not records:
        assert found(tmp_path, SECRET) == []
    logged = [(row["event"], row["subject"]) for row in Audit(home.engine).rows()]
    assert logged == [("expired", done.id)]


def test_a_job_is_known_for_a_time_and_one_that_nobody_draws_fails(tmp_path):
    home = Home(tmp_path, keep_s=1, listed_s=1)
    done, waiting = ended(home), home.add(reference=WHO)
    time.sleep(1.1)
    home.jobs.sweep()
    refused("unknown_video", home.jobs.get, done.id, "")
    failed = home.jobs.get(waiting.id, "")
    assert (failed.status, failed.error_code, failed.vector) == ("failed", "timed_out", None)


def test_folders_of_no_job_are_swept_when_they_are_old(home):
    job = ended(home)
    for name, age_s in (("video_" + "0" * 24, 7200), ("video_" + "1" * 24, 0), ("mine", 7200)):
        folder = home.files.path(job, "").parent / name
        folder.mkdir()
        os.utime(folder, (time.time() - age_s,) * 2)
    home.jobs.sweep()
    left = {one.name for one in home.files.path(job, "").parent.iterdir()}
    assert left == {job.id, "video_" + "1" * 24, "mine"}


def test_a_deleted_video_and_a_forgotten_person_leave_nothing(home, tmp_path, records):
    done = ended(home)
    assert home.jobs.delete(done.id, "").status == "completed"
    refused("unknown_video", home.jobs.get, done.id, "")
    person, ask = "person_" + "a" * 24, replace(ASK, prompt=SECRET, reference=WHO)
    drawn = home.jobs.add("", ask, MODEL, fingerprint="f", person=person)
    assert (drawn.person, drawn.vector) == (person, None)
    claimed = home.leases.claim()
    home.files.begin(claimed).write_bytes(SECRET.encode())
    home.jobs.forget(person)
    refused("unknown_video", home.jobs.get, drawn.id, "")
    assert home.on_disk(drawn) == []
    if not records:
        home.jobs.delete(ended(home).id, "")  # rewrites the file, as forgetting a person does
        assert found(tmp_path, SECRET) == found(tmp_path, person) == []
    logged = [(row["event"], json.loads(row["details"])) for row in Audit(home.engine).rows()]
    assert logged[0] == ("deleted", {"status": "completed"})


def found(folder, words):
    files = [one for one in folder.rglob("*") if one.is_file()]
    return [one.name for one in files if words.encode() in one.read_bytes()]


@pytest.mark.parametrize(
    "bad", [{"at_once": 0}, {"keep_s": 0}, {"queue": -1}, {"keep_s": 100, "listed_s": 99}]
)
def test_settings_that_cannot_work_are_refused(bad):
    with pytest.raises(BadValue, match="videos"):
        VideoSettings(**bad)
