import asyncio
import threading
from dataclasses import replace

import av
import numpy as np
import pytest

from serving.errors import Refusal
from serving.jobs.attempt import Attempt
from serving.jobs.leases import Lost
from serving.provenance.settings import ProvenanceSettings
from serving.provenance.stamp import Provenance
from serving.videos import State
from tests.serving.doors import faces
from tests.serving.jobs.drawers import Home, Sums, until


class Killed(BaseException):
    """Ends an attempt where it is, as kill -9 would: nothing of ours catches it."""


def die(*_, **__):
    raise Killed


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path, lease_s=0.2)
    yield made
    made.engine.dispose()


def attempt(home, job, videos=None, **changes):
    studio = replace(home.studio(videos), **changes)
    asyncio.run(Attempt(studio, job, threading.Event()).carry_out())


def next_claim(home):
    """Claim the job when the lease of the one that died has ended."""
    found = []
    until(lambda: found.append(home.leases.claim()) or found[-1])
    return found[-1]


def dies(home, where, name, videos=None):
    """Let the first attempt at a new job die at a call; return the next claim of the job."""
    job = home.add()
    setattr(where, name, die)
    with pytest.raises(Killed):
        attempt(home, home.leases.claim(), videos)
    delattr(where, name)
    again = next_claim(home)
    assert (again.id, again.fence) == (job.id, 2)
    return again


def grey(home, job):
    job = home.jobs.get(job.id, "")
    with av.open(str(home.files.path(job, home.jobs.result(job)))) as video:
        return int(next(video.decode(video=0)).to_ndarray(format="rgb24").mean().round())


def test_a_job_is_drawn_from_its_first_step_to_its_video(home):
    job, drawer = home.add(), Sums()
    attempt(home, home.leases.claim(), drawer)
    done = home.jobs.get(job.id, "")
    assert (done.status, done.progress, done.fence) == ("completed", 100, 1)
    assert drawer.steps == [0, 1, 2]
    assert home.on_disk(job) == ["result-1.mp4"]
    assert abs(grey(home, job) - 21) <= 3
    events, alive = home.jobs.events(job.id, "", 0)
    assert [one.progress for one in events] == [0, 0, 33, 66, 99, 100]
    assert [one.number for one in events] == list(range(1, 7))
    assert not alive


def test_one_that_died_before_its_checkpoint_starts_again(home):
    again = dies(home, home.leases, "note")
    assert home.on_disk(again) == ["step-1-1.safetensors"]  # which no row names
    drawer = Sums()
    attempt(home, again, drawer)
    assert drawer.steps == [0, 1, 2]
    assert home.on_disk(again) == ["result-2.mp4"]


def test_one_that_died_after_its_checkpoint_goes_on_from_there(home):
    first = Sums()
    first.frames = die
    again = dies(home, first, "nothing", first)
    assert (again.next_step, again.checkpoint_ref) == (3, "step-1-3.safetensors")
    drawer = Sums()
    attempt(home, again, drawer)
    assert (drawer.steps, drawer.finished) == ([], 1)
    assert abs(grey(home, again) - 21) <= 3


def test_one_that_died_between_its_video_and_its_row_is_not_drawn_again(home):
    again = dies(home, home.leases, "complete")
    assert "result-1.mp4" in home.on_disk(again)
    drawer = Sums()
    attempt(home, again, drawer)
    assert (drawer.steps, drawer.finished) == ([], 0)
    assert home.on_disk(again) == ["result-2.mp4"]
    assert home.jobs.get(again.id, "").result_ref == "result-2.mp4"


def test_a_late_worker_can_write_nothing_and_takes_nothing_away(home):
    job = home.add()
    late = home.leases.claim()
    now = next_claim(home)
    attempt(home, now)
    for call in (
        lambda: home.leases.beat(late),
        lambda: home.leases.check(late),
        lambda: home.leases.note(late, 1),
        lambda: home.leases.complete(late, "result-1.mp4"),
        lambda: home.leases.fail(late, "internal", "late"),
        lambda: home.leases.release(late),
    ):
        with pytest.raises(Lost, match="Attempt 1 at video_"):
            call()
    with pytest.raises(Lost):
        attempt(home, late)
    home.files.disown(late)
    home.files.tidy(late)
    assert home.on_disk(job) == ["result-2.mp4"]
    assert home.jobs.get(job.id, "").status == "completed"


@pytest.mark.parametrize("damage", ["cut", "other", "gone"])
def test_a_checkpoint_that_is_not_this_drawings_is_not_gone_on_from(home, damage):
    job = home.add()
    claimed = home.leases.claim()
    ref = home.files.save(claimed, State(next_step=2, arrays={"sum": np.array([14])}))
    noted = home.leases.note(claimed, 2, ref)
    assert home.files.load(noted).next_step == 2
    path = home.files.path(job, ref)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    elif damage == "other":
        home.files.save(replace(noted, fingerprint="another"), State(next_step=2, arrays={}))
    else:
        path.unlink()
    drawer = Sums()
    attempt(home, noted, drawer)
    assert drawer.steps == [0, 1, 2]


def test_one_whose_workers_die_of_it_is_not_begun_for_ever(tmp_path):
    home = Home(tmp_path, lease_s=0.05, attempts=2)
    job = home.add()
    assert [next_claim(home).fence for _ in range(2)] == [1, 2]
    until(lambda: home.leases.claim() is None and not home.jobs.get(job.id, "").alive)
    ended = home.jobs.get(job.id, "")
    assert (ended.status, ended.error_code) == ("failed", "internal")
    assert "begun 2 times" in ended.error_message


def test_what_goes_wrong_is_told_and_kept_apart_from_what_may_pass(home):
    job, drawer = home.add(), Sums()
    drawer.step = lambda *_: 1 / 0
    attempt(home, home.leases.claim(), drawer)
    failed = home.jobs.get(job.id, "")
    assert (failed.status, failed.error_code) == ("failed", "internal")
    assert home.on_disk(job) == []
    with pytest.raises(Refusal, match="is failed"):
        home.jobs.result(failed)

    class Away:
        def stamp(self, *_):
            raise Refusal("signer_unavailable", "Ask again.", retry_after_s=5)

    job = home.add()
    attempt(home, home.leases.claim(), provenance=Away())
    assert home.jobs.get(job.id, "").status == "queued"
    assert home.leases.claim() is None  # not before its time


def test_a_stopped_worker_gives_back_what_the_next_goes_on_with(tmp_path):
    home, slow = Home(tmp_path, lease_s=600.0), Sums(seconds=0.2)
    job = home.add(steps=50)
    runner = home.runner(slow)
    runner.start()
    until(lambda: home.jobs.get(job.id, "").next_step >= 2)
    runner.stop(30)
    assert not runner.well
    given_back = home.jobs.get(job.id, "")
    assert given_back.status == "queued"
    quick = Sums()
    attempt(home, home.leases.claim(), quick)
    assert quick.steps == list(range(given_back.next_step, 50))
    assert slow.steps == list(range(given_back.next_step))


def test_a_cancelled_job_stops_at_its_next_step_and_leaves_nothing(tmp_path):
    home, slow = Home(tmp_path), Sums(seconds=0.1)
    runner = home.runner(slow)
    runner.start()
    job = home.add(steps=100_000)
    until(lambda: home.jobs.get(job.id, "").next_step)
    assert home.jobs.delete(job.id, "").status == "cancelled"
    taken = len(slow.steps)
    other = home.add()
    until(lambda: home.jobs.get(other.id, "").status == "completed")
    assert len(slow.steps) - taken <= 3 + 20
    runner.stop(30)
    assert home.on_disk(job) == []
    with pytest.raises(Refusal, match="was cancelled before") as error:
        home.jobs.delete(job.id, "")
    assert error.value.code == "already_cancelled"


def test_a_video_is_marked_and_signed_before_it_has_its_name(tmp_path):
    home = Home(tmp_path)
    settings = ProvenanceSettings(home=str(tmp_path / "provenance"))
    provenance = Provenance(settings, home.engine)
    job = home.add(width_px=256, height_px=256)
    attempt(home, home.leases.claim(), provenance=provenance)
    done = home.jobs.get(job.id, "")
    blob = home.files.path(done, done.result_ref).read_bytes()
    credential = provenance._credentials.read(blob, "video/mp4")
    assert (credential.state, credential.made.request_id) == ("trusted", "request-1")
    assert home.on_disk(job) == ["result-1.mp4"]


class Looking(Sums):
    """Notes before every step what is shown of the job."""

    def __init__(self, home, job):
        super().__init__()
        self.look, self.seen = lambda: home.files.shown(home.jobs.get(job.id, "")), []

    def step(self, ask, state):
        self.seen.append(self.look())
        return super().step(ask, state)


def test_what_is_drawn_is_shown_at_every_checkpoint_signed_and_no_longer(tmp_path):
    home = Home(tmp_path, previews=True)
    provenance = Provenance(ProvenanceSettings(home=str(tmp_path / "provenance")), home.engine)
    job = home.add(width_px=256, height_px=256)
    drawer = Looking(home, job)
    attempt(home, home.leases.claim(), drawer, provenance=provenance)
    first, second, third = drawer.seen
    assert first is None
    assert second != third, "each shows how far it was"
    credential = provenance._credentials.read(third, "image/jpeg")
    assert (credential.state, credential.made.request_id) == ("trusted", "request-1")
    assert drawer.look() is None
    assert home.on_disk(job) == ["result-1.mp4"]


def test_where_somebody_is_protected_nothing_is_shown_before_it_was_looked_at(tmp_path):
    home = Home(tmp_path, previews=True)
    guard = home.guard()
    guard.protected.add(np.ones((1, 128), np.float32), faces().embedder, "")
    job = home.add()
    drawer = Looking(home, job)
    attempt(home, home.leases.claim(), drawer, guard=guard)
    assert drawer.seen == [None, None, None]
    assert home.jobs.get(job.id, "").status == "completed"
