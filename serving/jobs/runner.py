"""A worker: claims jobs and attends to each, until it is stopped.

It may die at any moment; see ``serving.jobs.leases`` for what becomes of its jobs.
"""

import asyncio
import logging
import threading
from functools import partial

from serving.database import asked
from serving.errors import Refusal
from serving.jobs.attempt import Attempt, Studio
from serving.jobs.leases import Lost
from serving.jobs.records import Job
from serving.jobs.table import Jobs

logger = logging.getLogger(__name__)

POLL_S = 0.25
"""How often somebody who has nothing to do looks for a job."""
_AWAY_S = 1.0


class Runner:
    """Draws what is asked for, ``videos.at_once`` jobs at the same time."""

    def __init__(self, jobs: Jobs, studio: Studio) -> None:
        """Begin nothing yet."""
        self._jobs, self._studio = jobs, studio
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self.run()), name="videos", daemon=True
        )

    def start(self) -> None:
        """Work in a thread of its own."""
        self._thread.start()

    def stop(self, timeout_s: float = 0.0) -> None:
        """Give back what was begun, each job at its next step, and end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def well(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive()

    async def run(self) -> None:
        """Work until ``stop``."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._studio.settings.at_once):
                group.create_task(self._serve())

    async def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                await asked(self._jobs.sweep)
                job = await asked(self._studio.leases.claim)
            except Refusal:  # the records are away; the log says so
                await asyncio.sleep(_AWAY_S)
                continue
            if job is None:
                await asyncio.sleep(POLL_S)
            else:
                await self._attend(job)

    async def _attend(self, job: Job) -> None:
        """Bring a job to its end, or leave it so that another attempt does."""
        work = asyncio.ensure_future(Attempt(self._studio, job, self._stopping).carry_out())
        beat = asyncio.ensure_future(self._beat(job))
        try:
            await asyncio.wait({work, beat}, return_when=asyncio.FIRST_COMPLETED)
            (work if work.done() else beat).result()
        except Lost as lost:
            logger.info("%s", lost)
            await asyncio.to_thread(self._studio.files.disown, job)
        except Exception:
            logger.exception("%s cannot be attended to; its lease ends by itself", job.id)
        finally:
            work.cancel()
            beat.cancel()
            await asyncio.gather(work, beat, return_exceptions=True)

    async def _beat(self, job: Job) -> None:
        """Say that we are alive, until the job is lost."""
        while True:
            await asyncio.sleep(self._studio.settings.lease_s / 3)
            try:
                await asked(partial(self._studio.leases.beat, job))
            except Refusal:
                continue  # the records are away; fences hold when they are back
