"""A job as its row has it, and what every change of one shares."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Connection, RowMapping, insert, text, update

from serving.jobs.tables import ALIVE, EVENTS, VIDEOS

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A video that was asked for."""

    id: str
    owner: str
    """Id of the API key."""
    fingerprint: str
    """Of what was asked."""
    request_id: str
    asked: Mapping[str, Any]
    """The fields of a ``VideoDraw`` without its reference, ``model`` and ``fps``."""
    person: str
    """Id of the enrolled person; empty: nobody of them."""
    vector: bytes | None
    """Of the person on uploaded photographs."""
    face: bytes | None
    """The first one's aligned face, where the model looks at it."""
    embedder: str
    status: Status
    created: float
    """Seconds since 1970, as all times here."""
    ended: float | None
    expires: float
    """When the result goes; 0: there is none yet."""
    error_code: str
    error_message: str
    fence: int
    """Which attempt this is."""
    attempt_id: str
    done: int
    """Steps that are drawn."""
    next_step: int
    """From where the checkpoint goes on."""
    steps: int
    checkpoint_ref: str
    """File within the job's folder; empty: none."""
    result_ref: str
    """The same of the video."""
    kept: int
    """Whether prompt and result are kept still."""

    @property
    def alive(self) -> bool:
        """Whether something is still to come."""
        return self.status in ALIVE

    @property
    def progress(self) -> int:
        """Return percent; all of it only when the result is there."""
        return percent(self.status, self.done, self.steps)


def percent(status: str, done: int, steps: int) -> int:
    """Return how much of a job is done."""
    return 100 if status == "completed" else min(99, 100 * done // max(steps, 1))


def told(row: RowMapping) -> Job:
    """Return a row as a job."""
    fields = {name: row[name] for name in Job.__slots__}
    return Job(**fields | {"asked": json.loads(row["asked"])})


def now(connection: Connection) -> float:
    """Return the time by the one clock that all processes share: PostgreSQL's, or the machine's."""
    if connection.dialect.name == "postgresql":
        asked = text("SELECT extract(epoch FROM clock_timestamp())")
        return float(connection.execute(asked).scalar_one())
    return time.time()


def change(
    transaction: Connection,
    job: str,
    *where: ColumnElement[bool],
    said: bool = True,
    **values: Any,  # noqa: ANN401 - of whatever columns
) -> Job | None:
    """Change a job's row if it is as it should be, and write the event; None: it is not.

    Args:
        transaction: Begun with ``engine.begin()``.
        job: Its id.
        where: What must hold.
        said: Whether that is an event.
        values: The columns that change.
    """
    statement = update(VIDEOS).where(VIDEOS.c.id == job, *where)
    values["events"] = VIDEOS.c.events + int(said)
    row = transaction.execute(statement.values(**values).returning(VIDEOS)).mappings().first()
    if row is None:
        return None
    changed = told(row)
    if said:
        tell(transaction, changed, row["events"])
    return changed


def tell(transaction: Connection, job: Job, number: int) -> None:
    """Write an event: how a job is now."""
    event = {"video": job.id, "number": number, "at": now(transaction)}
    status = {"status": job.status, "progress": job.progress}
    transaction.execute(insert(EVENTS).values(**event, **status))
