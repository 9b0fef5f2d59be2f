"""The audit log: what was done about people, one row each, none of which can change unseen.

Every row holds the SHA-256 of the row before it and of its own content, so a row that is changed,
taken out, put in or moved breaks the chain where it stands. Whoever can write to the database can
also forge a whole new chain, or cut the last rows off: so keep the head, which ``verify``
and ``export`` return, somewhere else, and give it to the next ``verify``.

There are no vectors, no pictures and no names in it: ids, codes and counts.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    insert,
    select,
    text,
)

from serving.database import prepare, reading

TABLES = MetaData()
AUDIT = Table(
    "audit", TABLES,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Float(53), nullable=False),
    Column("event", String(32), nullable=False),
    Column("key_id", String(32), nullable=False),
    Column("subject", String(64), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("details", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
)  # fmt: skip
Event = Literal[
    "enrolled", "renewed", "used", "searched", "refused", "forgotten", "expired",
    "protected", "unprotected", "deleted",
]  # fmt: skip
GENESIS = "0" * 64
"""What stands for the row before the first."""
_ORDER = 0x7669_6175  # of PostgreSQL's advisory locks: one row after the other
_PAGE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a look at the whole log has shown."""

    rows: int
    """That were found in order."""
    head: str
    """Digest of the last of them."""
    problem: str = ""
    """What is wrong behind it; empty: nothing."""


class Audit:
    """The log in one database. Rows get their order under a lock that all processes share."""

    def __init__(self, engine: Engine) -> None:
        """Make the table if it is not there."""
        self._engine = engine
        prepare(engine, TABLES)

    def log(
        self,
        event: Event,
        *,
        key_id: str = "",
        subject: str = "",
        request_id: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Write one row; it is on disk when this returns."""
        with self._engine.begin() as transaction:
            append(
                transaction, event, key_id=key_id, subject=subject, request_id=request_id,
                details=details,
            )  # fmt: skip

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield all rows, oldest first, as they were at one moment."""
        with reading(self._engine) as connection:
            last: int | None = None
            while True:
                asked = select(AUDIT).order_by(AUDIT.c.number).limit(_PAGE)
                if last is not None:
                    asked = asked.where(AUDIT.c.number > last)
                page = connection.execute(asked).mappings().all()
                yield from (dict(row) for row in page)
                if len(page) < _PAGE:
                    return
                last = page[-1]["number"]

    def verify(self, head: str = "") -> Verdict:
        """Look whether every row is as it was written, and where.

        Args:
            head: Digest of a row that is known to have been there: the last one of an earlier
                look. Without it nobody can see that the newest rows are missing.
        """
        count, last, met = 0, GENESIS, head in ("", GENESIS)
        for row in self.rows():
            problem = self._wrong(row, count + 1, last)
            if problem:
                return Verdict(rows=count, head=last, problem=problem)
            count, last = count + 1, row["digest"]
            met = met or last == head
        missing = (
            "" if met else f"the row {head} is not there: rows behind row {count} were cut off"
        )
        return Verdict(rows=count, head=last, problem=missing)

    def _wrong(self, row: Mapping[str, Any], number: int, last: str) -> str:
        """Say what is wrong with the row that should be the ``number``-th; empty: nothing."""
        found = row["number"]
        if row["digest"] == digest(row):
            if found != number:
                return f"row {number} was removed: row {found} follows row {number - 1}"
            if row["previous"] != last:
                return f"row {number} does not follow row {number - 1}: one of them was replaced"
            return ""
        with reading(self._engine) as connection:
            asked = select(AUDIT.c.digest, AUDIT.c.number)
            places = {one.digest: one.number for one in connection.execute(asked)}
        for place in (places.get(row["previous"], -1) + 1, *range(1, len(places) + 1)):
            if place != found and digest({**row, "number": place}) == row["digest"]:
                return f"row {found} was moved: it was written as row {place}"
        return f"row {found} was changed"


def append(
    transaction: Connection,
    event: Event,
    *,
    key_id: str = "",
    subject: str = "",
    request_id: str = "",
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write one row as part of a transaction, so that it is there if and only if the deed is.

    Args:
        transaction: Begun with ``engine.begin()``; best at its end, for others wait from here on.
        event: What was done.
        key_id: Whose key asked for it.
        subject: Id of the person that it was about; never a name.
        request_id: Of the request.
        details: Codes and counts.
    """
    if transaction.dialect.name == "postgresql":
        transaction.execute(text(f"SELECT pg_advisory_xact_lock({_ORDER})"))
    last = transaction.execute(
        select(AUDIT.c.number, AUDIT.c.digest).order_by(AUDIT.c.number.desc()).limit(1)
    ).first()
    row = {
        "number": last.number + 1 if last else 1,
        "at": round(time.time(), 3),
        "event": event,
        "key_id": key_id,
        "subject": subject,
        "request_id": request_id,
        "details": _canonical(details or {}),
        "previous": last.digest if last else GENESIS,
    }
    transaction.execute(insert(AUDIT).values(**row, digest=digest(row)))


def digest(row: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the previous row's digest and of this row's content as JSON.

    The JSON has sorted keys and no spaces, and ``details`` in it is a text: what the database
    holds, so that no number is written in two ways.
    """
    content = {name: row[name] for name in row if name not in ("previous", "digest")}
    return hashlib.sha256((row["previous"] + _canonical(content)).encode()).hexdigest()


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
