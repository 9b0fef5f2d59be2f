"""The database of what is served: people, audit, jobs; one SQLite file, or PostgreSQL.

Several processes use it at once: every gateway, and whoever works on jobs. A transaction begun with
``engine.begin()`` takes SQLite's write lock at its start (``BEGIN IMMEDIATE``), so what it has read
still holds when it writes; ``reading`` takes none. SQLite zeroes what is deleted
(``secure_delete``), and ``scrub`` rewrites the file, so that nothing of it stays on disk.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, MetaData, create_engine, event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from infra.errors import BadValue
from serving.errors import Refusal

T = TypeVar("T")

logger = logging.getLogger(__name__)

BUSY_S = 10.0
"""How long a transaction waits for another one's write lock."""
DRIVER = "postgresql+psycopg2"
_CURE = f"give the path of a SQLite file, or {DRIVER}://USER@HOST/DATABASE."
_POOL = {"pool_size": 8, "max_overflow": 32}  # as many as there are threads in asyncio's pool
_AS_READER = "visage_reading"
_SETUP_LOCK = 0x7669_7361  # of PostgreSQL's advisory locks: one process at a time makes tables
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA secure_delete=ON",
    # With WAL, NORMAL could lose the last transactions when the power fails.
    "PRAGMA synchronous=FULL",
)


def open_database(url: str) -> Engine:
    """Open a database, made if it is a SQLite file that is not there yet.

    Args:
        url: Path of a SQLite file, ``sqlite:///PATH``, or ``postgresql+psycopg2://...``.

    Returns:
        An engine, safe to use from many threads; ``dispose()`` closes it.

    Raises:
        BadValue: It is no such URL, or the database cannot be opened; no password is shown.
    """
    if "://" not in url:
        return _open_file(Path(url).expanduser())
    try:
        named = make_url(url)
        if named.drivername in ("sqlite", "sqlite+pysqlite") and named.database:
            return _open_file(Path(named.database))
        if named.drivername != DRIVER:
            raise BadValue("records", named.render_as_string(), _CURE)
        # A server that went away and came back must not fail the requests that find it back.
        engine = create_engine(named, pool_pre_ping=True, **_POOL)
    except (ArgumentError, NoSuchModuleError):
        raise BadValue("records", url.partition("://")[0] + "://...", _CURE) from None
    return _tried(engine, named.render_as_string())


def prepare(engine: Engine, tables: MetaData) -> None:
    """Make the tables that are not there; several processes may do so at once."""
    with engine.begin() as transaction:
        if engine.dialect.name == "postgresql":
            transaction.execute(text(f"SELECT pg_advisory_xact_lock({_SETUP_LOCK})"))
        tables.create_all(transaction)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that only reads: one view of the whole, and no lock that others need."""
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    with engine.connect() as connection:
        connection.info[_AS_READER] = True
        try:
            yield connection
        finally:
            connection.info.pop(_AS_READER, None)


def scrub(engine: Engine, *tables: str) -> bool:
    """Take what was deleted off the disk.

    SQLite's file is rewritten and its log emptied. PostgreSQL rewrites ``tables``; what its own
    write-ahead log, its archives and backups hold goes when they expire.

    Returns:
        Whether it is done; not if others were reading all the time. Then call again later.
    """
    if engine.dialect.name == "postgresql":
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            for table in tables:
                connection.execute(text(f"VACUUM FULL {table}"))
        return True
    held = engine.raw_connection()
    try:
        file: Any = held.driver_connection
        file.execute("VACUUM")
        busy, *_ = file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.OperationalError:  # locked for all of BUSY_S
        return False
    finally:
        held.close()
    return not busy


async def asked(work: Callable[[], T]) -> T:
    """Carry out work on a database in a thread.

    Raises:
        Refusal: ``records_unavailable``: it does not answer, or is locked for too long.
    """
    try:
        return await asyncio.to_thread(work)
    except (DBAPIError, PoolTimeout) as error:
        # psycopg2 may say no more than DatabaseError when the server dies while it answers.
        known = isinstance(error, InterfaceError | OperationalError | PoolTimeout)
        if not known and not getattr(error, "connection_invalidated", False):
            raise
        why = getattr(error, "orig", error)
        logger.error("The records cannot be reached: %s", why)  # noqa: TRY400
        words = "The records of people cannot be reached; nothing is done without them. Ask again."
        raise Refusal("records_unavailable", words, retry_after_s=5) from None


def _open_file(path: Path) -> Engine:
    """Open a SQLite file that only its owner may read."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)
    except OSError as error:
        raise BadValue("records", str(path), f"it cannot be written ({error}).") from None
    engine = create_engine(
        f"sqlite:///{path}", connect_args={"timeout": BUSY_S}, poolclass=QueuePool, **_POOL
    )
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    return _tried(engine, str(path))


def _set_up(connection: Any, _: object) -> None:  # noqa: ANN401 - of the driver
    connection.isolation_level = None  # the driver begins no transactions; _begin does
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _begin(connection: Connection) -> None:
    kind = "DEFERRED" if connection.info.get(_AS_READER) else "IMMEDIATE"
    connection.exec_driver_sql(f"BEGIN {kind}")


def _tried(engine: Engine, shown: str) -> Engine:
    try:
        with reading(engine) as connection:
            connection.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        engine.dispose()
        # The statement is left out, and a driver's words name no password.
        why = str(error.orig).strip() if isinstance(error, DBAPIError) else type(error).__name__
        raise BadValue("records", shown, f"it cannot be opened ({why}).") from None
    return engine
