"""What is over goes: results, prompts, whole jobs, and folders that belong to none."""

import json
import threading
import time

from sqlalchemy import Engine, delete, select

from serving.audit import append
from serving.database import scrub
from serving.jobs.files import Files
from serving.jobs.records import change, now, told
from serving.jobs.settings import VideoSettings
from serving.jobs.tables import ALIVE, EVENTS, VIDEOS

SWEEP_S = 60.0
"""How often a process looks for what is over."""


class Sweeper:
    """Takes away what is over. Every process may have its own; each thing goes once."""

    def __init__(self, engine: Engine, files: Files, settings: VideoSettings) -> None:
        """Take nothing away yet."""
        self._engine, self._settings, self._files = engine, settings, files
        self._due, self._sweeping = 0.0, threading.Lock()

    def sweep(self) -> None:
        """Take away what is over, unless somebody here has just done so."""
        with self._sweeping:
            if time.monotonic() < self._due:
                return
            self.sweep_now()
            self._due = time.monotonic() + SWEEP_S

    def sweep_now(self) -> None:
        """Take away what is over: results, prompts, jobs, and folders of none."""
        with self._engine.begin() as transaction:
            moment = now(transaction)
            late = moment - self._settings.listed_s
            idle = select(VIDEOS.c.id).where(VIDEOS.c.status.in_(ALIVE), VIDEOS.c.created < late)
            for job in transaction.execute(idle).scalars().all():
                change(
                    transaction, job, status="failed", ended=moment, expires=moment,
                    fence=VIDEOS.c.fence + 1, vector=None, face=None, error_code="timed_out",
                    error_message="Nobody came to draw it in time.",
                )  # fmt: skip
            over = (
                VIDEOS.c.status.not_in(ALIVE), VIDEOS.c.expires <= moment, VIDEOS.c.kept == 1,
            )  # fmt: skip
            expired = transaction.execute(select(VIDEOS).where(*over)).mappings().all()
            for job in map(told, expired):
                asked = json.dumps({**job.asked, "prompt": "", "negative_prompt": ""})
                change(transaction, job.id, said=False, asked=asked, result_ref="", kept=0)
                append(transaction, "expired", key_id=job.owner, subject=job.id)
            gone = delete(VIDEOS).where(VIDEOS.c.ended < late)
            removed = transaction.execute(gone).rowcount
            known = set(transaction.execute(select(VIDEOS.c.id)).scalars())
        for row in expired:
            self._files.forget(row["id"])
        for stray in self._files.strays(known):
            self._files.forget(stray)
        if expired or removed:
            scrub(self._engine, VIDEOS.name, EVENTS.name)
