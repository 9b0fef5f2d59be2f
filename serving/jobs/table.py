"""Jobs as those who ask for them see them: added once, listed, cancelled, forgotten in time.

A job belongs to the API key that asked for it; for every other key there is none of that id.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, or_, select
from sqlalchemy.exc import IntegrityError

from serving.audit import TABLES as AUDIT_TABLES
from serving.audit import append
from serving.database import prepare, reading, scrub
from serving.errors import Refusal
from serving.jobs.files import Files
from serving.jobs.records import Job, Status, change, now, tell, told
from serving.jobs.settings import VideoSettings
from serving.jobs.sweep import Sweeper
from serving.jobs.tables import ALIVE, EVENTS, TABLES, VIDEOS
from serving.people.records import encoded
from serving.people.tables import packed
from serving.videos import VideoDraw


@dataclass(frozen=True, kw_only=True, slots=True)
class JobEvent:
    """How a job was when something happened to it."""

    number: int
    """From 1 on."""
    at: float
    status: Status
    progress: int
    """Percent."""


class Jobs:
    """The jobs of one database and one folder. Every process may have its own."""

    def __init__(self, engine: Engine, files: Files, settings: VideoSettings) -> None:
        """Make the tables if they are not there."""
        self._engine, self._settings = engine, settings
        self.files = files
        self.sweep = Sweeper(engine, files, settings).sweep
        for tables in (TABLES, AUDIT_TABLES):
            prepare(engine, tables)

    def add(
        self,
        owner: str,
        ask: VideoDraw,
        model: str,
        *,
        fps: int = 0,
        fingerprint: str,
        person: str = "",
        idempotency_key: str | None = None,
    ) -> Job:
        """Write a job down; one that was asked for under the same key before is returned instead.

        Args:
            owner: Id of the API key.
            ask: What to draw; its reference is kept where it is not an enrolled person's.
            model: What is to draw.
            fps: At which its videos play; 0: unknown.
            fingerprint: Of what was asked, see ``fingerprint``.
            person: Id of the enrolled person.
            idempotency_key: Of the client's choice; None: this is no repetition.

        Raises:
            Refusal: ``idempotency_conflict``, ``unknown_person``, or ``overloaded``: too many wait.
        """
        fields = asdict(ask) | {"model": model, "fps": fps}
        request_id = fields.pop("request_id")
        del fields["reference"]
        reference = None if person else ask.reference
        row = {
            "id": f"video_{secrets.token_hex(12)}", "owner": owner,
            "idempotency_key": idempotency_key, "fingerprint": fingerprint,
            "request_id": request_id, "asked": json.dumps(fields), "person": person,
            "vector": packed(reference.vector) if reference else None,
            "face": encoded(reference.faces[0]) if reference and reference.faces else None,
            "embedder": reference.embedder if reference else "",
            "status": "queued", "ended": None, "expires": 0.0, "error_code": "",
            "error_message": "", "fence": 0, "attempt_id": "", "lease_until": 0.0, "done": 0,
            "next_step": 0, "steps": ask.steps, "checkpoint_ref": "", "result_ref": "",
            "kept": 1, "events": 1,
        }  # fmt: skip
        try:
            with self._engine.begin() as transaction:
                same = self._same(transaction, owner, idempotency_key, fingerprint)
                if same:
                    return same
                waiting = select(func.count()).where(VIDEOS.c.status == "queued")
                if transaction.execute(waiting).scalar_one() >= self._settings.queue:
                    words = f"{self._settings.queue} videos wait to be drawn; ask again later."
                    raise Refusal("overloaded", words, retry_after_s=30)
                made = insert(VIDEOS).values(**row, created=now(transaction)).returning(VIDEOS)
                job = told(transaction.execute(made).mappings().one())
                tell(transaction, job, 1)
                return job
        except IntegrityError:  # PostgreSQL: the same request came twice at once
            with reading(self._engine) as connection:
                same = self._same(connection, owner, idempotency_key, fingerprint)
            if same is None:
                raise
            return same

    def find(self, owner: str, idempotency_key: str | None, fingerprint: str) -> Job | None:
        """Return what was asked for under a key before; None: nothing.

        Raises:
            Refusal: ``idempotency_conflict``.
        """
        with reading(self._engine) as connection:
            return self._same(connection, owner, idempotency_key, fingerprint)

    def get(self, job: str, owner: str) -> Job:
        """Return a job.

        Raises:
            Refusal: ``unknown_video``.
        """
        with reading(self._engine) as connection:
            return self._row(connection, job, owner)

    def list(
        self, owner: str, limit: int, after: str = "", *, newest_first: bool = True
    ) -> Sequence[Job]:
        """Return jobs of a key, by the time they were asked for.

        Args:
            owner: Id of the API key.
            limit: How many at most.
            after: The id behind which to go on.
            newest_first: Or the oldest.

        Raises:
            Refusal: ``unknown_video``: there is none of the id ``after``.
        """
        created, identity = VIDEOS.c.created, VIDEOS.c.id
        asked = select(VIDEOS).where(VIDEOS.c.owner == owner)
        with reading(self._engine) as connection:
            if after:
                last = self._row(connection, after, owner)
                tied = created == last.created
                if newest_first:
                    asked = asked.where(or_(created < last.created, tied & (identity < last.id)))
                else:
                    asked = asked.where(or_(created > last.created, tied & (identity > last.id)))
            order = (created.desc(), identity.desc()) if newest_first else (created, identity)
            rows = connection.execute(asked.order_by(*order).limit(limit)).mappings()
            return [told(row) for row in rows]

    def delete(self, job: str, owner: str, request_id: str = "") -> Job:
        """Cancel a job that is not done; take one that is done away, and its video.

        Whoever draws it learns of it at the next step, for the fence is another from now on.

        Returns:
            What it is now: cancelled, or as it ended.

        Raises:
            Refusal: ``unknown_video`` or ``already_cancelled``.
        """
        with self._engine.begin() as transaction:
            held = self._row(transaction, job, owner)
            if held.status == "cancelled":
                words = f"{job} was cancelled before; nothing of it is left to be deleted."
                raise Refusal("already_cancelled", words)
            moment = now(transaction)
            changed = change(
                transaction, job, VIDEOS.c.status.in_(ALIVE), status="cancelled", ended=moment,
                expires=moment + self._settings.keep_s, fence=VIDEOS.c.fence + 1, vector=None,
                face=None, checkpoint_ref="",
            )  # fmt: skip
            if changed is None:
                transaction.execute(delete(VIDEOS).where(VIDEOS.c.id == job))
            append(
                transaction, "deleted", key_id=owner, subject=job, request_id=request_id,
                details={"status": (changed or held).status},
            )  # fmt: skip
        self.files.forget(job)
        if changed is None:
            scrub(self._engine, VIDEOS.name, EVENTS.name)
        return changed or held

    def forget(self, person: str) -> None:
        """Take away all jobs of a person, and what they have drawn; see ``Door.forgetters``."""
        of = VIDEOS.c.person == person
        with self._engine.begin() as transaction:
            gone = transaction.execute(select(VIDEOS.c.id).where(of)).scalars().all()
            transaction.execute(delete(VIDEOS).where(of))
        for job in gone:
            self.files.forget(job)
        if gone and self._engine.dialect.name == "postgresql":  # SQLite's whole file is rewritten
            scrub(self._engine, VIDEOS.name, EVENTS.name)

    def result(self, job: Job) -> str:
        """Return the name of a job's video, see ``Files.path``.

        Raises:
            Refusal: ``not_finished``, ``no_result`` or ``video_expired``.
        """
        details = {"status": job.status, "progress": job.progress}
        if job.alive:
            words = f"{job.id} is {job.status}, at {job.progress} %; fetch it when it is completed."
            raise Refusal("not_finished", words, details)
        if job.status != "completed":
            why = f" ({job.error_code}): {job.error_message}" if job.error_code else "."
            raise Refusal("no_result", f"{job.id} is {job.status}{why}", details)
        with reading(self._engine) as connection:
            over = not job.kept or job.expires <= now(connection)
        if over or not self.files.path(job, job.result_ref).is_file():
            words = f"{job.id} is not kept any more; videos are for {self._settings.keep_s} s."
            raise Refusal("video_expired", words, details)
        return job.result_ref

    def events(self, job: str, owner: str, after: int) -> tuple[Sequence[JobEvent], bool]:
        """Return what happened to a job behind an event's number, and whether more may happen.

        Raises:
            Refusal: ``unknown_video``.
        """
        columns = [EVENTS.c[name] for name in JobEvent.__slots__]
        asked = select(*columns).where(EVENTS.c.video == job, EVENTS.c.number > after)
        with reading(self._engine) as connection:
            alive = self._row(connection, job, owner).alive
            rows = connection.execute(asked.order_by(EVENTS.c.number)).mappings()
            return [JobEvent(**row) for row in rows], alive

    def _same(
        self, connection: Connection, owner: str, key: str | None, fingerprint: str
    ) -> Job | None:
        if key is None:
            return None
        asked = select(VIDEOS).where(VIDEOS.c.owner == owner, VIDEOS.c.idempotency_key == key)
        row = connection.execute(asked).mappings().first()
        if row and row["fingerprint"] != fingerprint:
            words = "Another video was asked for under this Idempotency-Key; choose another key."
            raise Refusal("idempotency_conflict", words, {"id": row["id"]})
        return told(row) if row else None

    def _row(self, connection: Connection, job: str, owner: str) -> Job:
        row = connection.execute(select(VIDEOS).where(VIDEOS.c.id == job)).mappings().first()
        if row is None or row["owner"] != owner:
            raise unknown(job)
        return told(row)


def unknown(job: str) -> Refusal:
    """Refuse an id; the same words whether it is somebody else's or nobody's."""
    words = f"This key has no video {job[:80]!r}; it was deleted, or is long over."
    return Refusal("unknown_video", words)


def fingerprint(asked: Mapping[str, Any]) -> str:
    """Return what tells a request's fields, files too, from those of others."""
    told = json.dumps(asked, sort_keys=True, default=lambda blob: hashlib.sha256(blob).hexdigest())
    return hashlib.sha256(told.encode()).hexdigest()
