"""Who draws which job: leases that end when a worker is silent, fences that keep the late out.

A worker claims a job for a time and says again and again that it is alive. When it dies, its lease
ends and another one claims the job, under the next fence; whatever the first may still write names
the old fence and is refused. So every job ends once, though it may be begun more often. It may die

* before a checkpoint: the next attempt goes on from the one before, or starts again;
* between a checkpoint and the result: it goes on from the checkpoint;
* between the result and its row: it finds the video whole, and only writes the row.

References:
    The contract of Ray's documentation for asynchronous jobs, "Asynchronous inference": job,
    fingerprint, attempt, fence, checkpoint, next unit, result.
"""

import secrets

from sqlalchemy import ColumnElement, Connection, Engine, and_, or_, select

from infra.errors import VisageError
from serving.database import prepare, reading
from serving.jobs.records import Job, Status, change, now, percent, told
from serving.jobs.settings import VideoSettings
from serving.jobs.tables import TABLES, VIDEOS


class Lost(VisageError):
    """A job is another attempt's now, or nobody's: it was cancelled, or its person forgotten."""

    def __init__(self, job: str, fence: int) -> None:
        self.job, self.fence = job, fence
        super().__init__(job, fence)

    def __str__(self) -> str:
        return (
            f"Attempt {self.fence} at {self.job} was overtaken: it was cancelled, or another "
            "worker has it. Nothing is to be done."
        )


class Leases:
    """A worker's view of the table."""

    def __init__(self, engine: Engine, settings: VideoSettings) -> None:
        """Make the tables if they are not there."""
        self._engine, self._settings = engine, settings
        prepare(engine, TABLES)

    def claim(self) -> Job | None:
        """Take the oldest job that waits, or whose worker is silent; None: there is none.

        One that has been begun too often ends here.
        """
        while True:
            with self._engine.begin() as transaction:
                moment = now(transaction)
                free = or_(
                    and_(VIDEOS.c.status == "queued", VIDEOS.c.lease_until <= moment),
                    and_(VIDEOS.c.status == "in_progress", VIDEOS.c.lease_until < moment),
                )
                # PostgreSQL: those that another worker is just taking are passed over.
                asked = (
                    select(VIDEOS).where(free).order_by(VIDEOS.c.created, VIDEOS.c.id).limit(1)
                    .with_for_update(skip_locked=True)
                )  # fmt: skip
                found = transaction.execute(asked).mappings().first()
                if found is None:
                    return None
                job = told(found)
                if job.fence < self._settings.attempts:
                    return change(
                        transaction, job.id, status="in_progress", fence=job.fence + 1,
                        attempt_id=secrets.token_hex(8),
                        lease_until=moment + self._settings.lease_s,
                    )  # fmt: skip
                words = f"It was begun {job.fence} times, and never finished; the log says why."
                self._end(transaction, job, "failed", "internal", words)

    def beat(self, job: Job) -> None:
        """Say that the worker is alive.

        Raises:
            Lost: The job is not this attempt's any more.
        """
        with self._engine.begin() as transaction:
            until = now(transaction) + self._settings.lease_s
            self._held(change(transaction, job.id, *_mine(job), said=False, lease_until=until), job)

    def check(self, job: Job) -> None:
        """See that a job is still this attempt's.

        Raises:
            Lost: It is not.
        """
        with reading(self._engine) as connection:
            asked = select(VIDEOS.c.id).where(VIDEOS.c.id == job.id, *_mine(job))
            if connection.execute(asked).first() is None:
                raise Lost(job.id, job.fence)

    def note(self, job: Job, done: int, checkpoint_ref: str = "") -> Job:
        """Write how far a job is, and that a checkpoint lies there if there is a new one.

        Raises:
            Lost: The job is not this attempt's any more.
        """
        values: dict[str, object] = {"done": done}
        if checkpoint_ref:
            values |= {"next_step": done, "checkpoint_ref": checkpoint_ref}
        said = percent("", done, job.steps) != job.progress
        with self._engine.begin() as transaction:
            values["lease_until"] = now(transaction) + self._settings.lease_s
            return self._held(change(transaction, job.id, *_mine(job), said=said, **values), job)

    def complete(self, job: Job, result_ref: str) -> Job:
        """Write that a job's video is there.

        Raises:
            Lost: The job is not this attempt's any more.
        """
        with self._engine.begin() as transaction:
            return self._held(self._end(transaction, job, "completed", ref=result_ref), job)

    def fail(self, job: Job, code: str, message: str) -> Job:
        """Write why a job cannot be done.

        Raises:
            Lost: The job is not this attempt's any more.
        """
        with self._engine.begin() as transaction:
            return self._held(self._end(transaction, job, "failed", code, message), job)

    def release(self, job: Job, wait_s: float = 0.0) -> None:
        """Give a job back unfinished, to be gone on with after a while.

        Raises:
            Lost: The job is not this attempt's any more.
        """
        with self._engine.begin() as transaction:
            free = now(transaction) + wait_s
            back = change(transaction, job.id, *_mine(job), status="queued", lease_until=free)
            self._held(back, job)

    def _end(
        self,
        transaction: Connection,
        job: Job,
        status: Status,
        code: str = "",
        message: str = "",
        ref: str = "",
    ) -> Job | None:
        moment = now(transaction)
        return change(
            transaction, job.id, VIDEOS.c.fence == job.fence, VIDEOS.c.status == job.status,
            status=status, ended=moment, expires=moment + self._settings.keep_s,
            error_code=code, error_message=message, result_ref=ref, checkpoint_ref="",
            vector=None, face=None,
        )  # fmt: skip

    def _held(self, changed: Job | None, job: Job) -> Job:
        if changed is None:
            raise Lost(job.id, job.fence)
        return changed


def _mine(job: Job) -> tuple[ColumnElement[bool], ...]:
    return VIDEOS.c.fence == job.fence, VIDEOS.c.status == "in_progress"
