"""What draws in no time, and jobs for it to draw."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from serving.database import open_database
from serving.guard import Guard
from serving.jobs.attempt import Studio
from serving.jobs.files import Files
from serving.jobs.leases import Leases
from serving.jobs.runner import Runner
from serving.jobs.settings import VideoSettings
from serving.jobs.table import Jobs, fingerprint
from serving.provenance.settings import ProvenanceSettings
from serving.provenance.stamp import Provenance
from serving.recipes import local
from serving.videos import INFOS, State, VideoDraw

MODEL = "random:tiny-animatediff"
ASK = VideoDraw(
    request_id="request-1", prompt="a dance", width_px=16, height_px=16, frames=4, seed=7, steps=3,
    guidance=1.0,
)  # fmt: skip


class Sums:
    """Adds the seed to a number at each step; ``seconds`` each. Remembers which steps it took."""

    def __init__(self, seconds=0.0):
        self.info, self.seconds = INFOS[MODEL], seconds
        self.steps, self.finished = [], 0

    def begin(self, ask):  # noqa: ARG002 - of the protocol
        return State(next_step=0, arrays={"sum": np.zeros(1, dtype=np.int64)})

    def step(self, ask, state):
        time.sleep(self.seconds)
        self.steps.append(state.next_step)
        return State(next_step=state.next_step + 1, arrays={"sum": state.arrays["sum"] + ask.seed})

    def preview(self, ask, state):
        return self._drawn(ask, state)[0]

    def frames(self, ask, state):
        self.finished += 1
        return self._drawn(ask, state)

    def _drawn(self, ask, state):
        grey = int(state.arrays["sum"][0]) % 256
        return np.full((ask.frames, ask.height_px, ask.width_px, 3), grey, dtype=np.uint8)


class Home:
    """A database, a folder, and whoever works on them."""

    def __init__(self, home, records="", **settings):
        home = Path(home)
        settings = {
            "model": MODEL,
            "checkpoint_s": 0.0,
            "lease_s": 5.0,
            "previews": False,
            **settings,
        }
        self.settings = VideoSettings(**settings, folder=str(home / "videos"))
        self.recipe = replace(
            local(), videos=self.settings, records=records or str(home / "serving.db"),
            provenance=ProvenanceSettings(
                home=str(home / "provenance"), credentials=False, watermark="none"
            ),
        )  # fmt: skip
        self.engine = open_database(self.recipe.database)
        self.files = Files(self.recipe.results)
        self.files.make()
        self.jobs = Jobs(self.engine, self.files, self.settings)
        self.leases = Leases(self.engine, self.settings)

    def studio(self, videos=None, provenance=None, guard=None):
        return Studio(
            leases=self.leases, files=self.files, videos=videos or Sums(),
            guard=guard or self.guard(), settings=self.settings,
            provenance=provenance or Provenance(self.recipe.provenance, self.engine),
        )  # fmt: skip

    def guard(self):
        from tests.serving.doors import faces  # slow to load, and not every process needs them

        return Guard(self.recipe, faces(), self.engine)

    def runner(self, videos=None, **changes):
        return Runner(self.jobs, self.studio(videos, **changes))

    def add(self, owner="", key=None, **changes):
        ask = replace(ASK, **changes)
        return self.jobs.add(
            owner,
            ask,
            MODEL,
            fingerprint=fingerprint({name: repr(value) for name, value in changes.items()}),
            idempotency_key=key,
        )

    def on_disk(self, job):
        """Return what lies there of a job."""
        folder = self.files.path(job, "")
        return sorted(one.name for one in folder.iterdir()) if folder.exists() else []


def until(true, within_s=30):
    """Wait for something to be so."""
    ends = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < ends, "it has not come about"
        time.sleep(0.05)
