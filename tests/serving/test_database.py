import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import (
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, OperationalError

from infra.errors import BadValue
from serving import database
from serving.database import open_database, prepare, reading, scrub
from tests.e2e.services import postgres

TABLES = MetaData()
COUNT = Table("count", TABLES, Column("id", Integer, primary_key=True), Column("n", Integer))
BLOBS = Table(
    "blobs", TABLES, Column("of", ForeignKey("count.id"), primary_key=True),
    Column("blob", LargeBinary),
)  # fmt: skip
COUNTER = """
import sys
from sqlalchemy import select, update
from serving.database import open_database, prepare
from tests.serving.test_database import COUNT, TABLES
engine = open_database(sys.argv[1])
prepare(engine, TABLES)
for _ in range(int(sys.argv[2])):
    with engine.begin() as transaction:
        n = transaction.execute(select(COUNT.c.n)).scalar_one()
        transaction.execute(update(COUNT).values(n=n + 1))
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "new" / "records.db"
    engine = open_database(str(path))
    prepare(engine, TABLES)
    with engine.begin() as transaction:
        transaction.execute(insert(COUNT).values(id=1, n=0))
    yield path, engine
    engine.dispose()


def counted_by_processes(url, processes, times):
    command = [sys.executable, "-c", COUNTER, url, str(times)]
    running = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(processes)]
    assert [one.wait(120) for one in running] == [0] * processes


def test_only_its_owner_may_read_the_file_and_its_log(file):
    path, _ = file
    kept = sorted(path.parent.iterdir())
    assert [one.name for one in kept] == ["records.db", "records.db-shm", "records.db-wal"]
    assert {stat.S_IMODE(one.stat().st_mode) for one in kept} == {0o600}


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path):
    path = tmp_path / "records.db"
    path.touch(mode=0o644)
    open_database(f"sqlite:///{path}").dispose()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_read_in_a_transaction_still_holds_when_it_writes(file):
    path, engine = file
    counted_by_processes(str(path), processes=3, times=30)
    with reading(engine) as connection:
        assert connection.execute(select(COUNT.c.n)).scalar_one() == 90


def test_readers_wait_for_no_writer_and_see_one_view(file):
    _, engine = file
    with reading(engine) as reader:
        assert reader.execute(select(COUNT.c.n)).scalar_one() == 0
        with engine.begin() as writer:
            writer.execute(update(COUNT).values(n=7))
            with reading(engine) as other:
                assert other.execute(select(COUNT.c.n)).scalar_one() == 0
        assert reader.execute(select(COUNT.c.n)).scalar_one() == 0
    with reading(engine) as reader:
        assert reader.execute(select(COUNT.c.n)).scalar_one() == 7


def test_a_connection_that_has_read_writes_again_under_the_lock(file):
    path, engine = file
    for _ in range(3):
        with reading(engine) as reader:
            reader.execute(select(COUNT.c.n))
    with engine.begin():
        other = sqlite3.connect(path, timeout=0.1)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()


def half_a_change(engine):
    with engine.begin() as transaction:
        transaction.execute(update(COUNT).values(n=5))
        transaction.execute(insert(BLOBS).values(of=99, blob=b""))  # of nobody: foreign keys hold


def test_what_fails_midway_leaves_nothing(file):
    _, engine = file
    with pytest.raises(IntegrityError):
        half_a_change(engine)
    with reading(engine) as connection:
        assert connection.execute(select(COUNT.c.n)).scalar_one() == 0


def test_a_lock_that_is_never_given_back_is_an_error_in_time(file, monkeypatch):
    path, _ = file
    monkeypatch.setattr(database, "BUSY_S", 0.2)
    impatient = open_database(str(path))
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(OperationalError, match="locked"), impatient.begin():
        pass
    assert time.monotonic() - began < 5
    holder.close()
    impatient.dispose()


def test_nothing_of_what_was_deleted_stays_on_disk(file):
    path, engine = file
    secret = os.urandom(8) * 2000  # more than a page, so some of it lies on pages of its own
    with engine.begin() as transaction:
        transaction.execute(insert(BLOBS).values(of=1, blob=secret))
    assert any(secret[:8] in one.read_bytes() for one in path.parent.iterdir())
    with engine.begin() as transaction:
        transaction.execute(BLOBS.delete())
    assert scrub(engine)
    assert not any(secret[:8] in one.read_bytes() for one in path.parent.iterdir())


def test_while_somebody_reads_the_disk_is_not_called_clean(file, monkeypatch):
    path, _ = file
    monkeypatch.setattr(database, "BUSY_S", 0.2)
    impatient = open_database(str(path))
    with reading(impatient) as reader:
        reader.execute(select(COUNT.c.n)).scalar_one()
        with impatient.begin() as transaction:
            transaction.execute(update(COUNT).values(n=1))
        told = []
        thread = threading.Thread(target=lambda: told.append(scrub(impatient)))
        thread.start()
        thread.join(30)
        assert told == [False]
    assert scrub(impatient)
    impatient.dispose()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://root:hunter2@host/x", "give the path of a SQLite file"),
        ("postgresql://me:hunter2@host/x", "postgresql+psycopg2://USER@HOST/DATABASE"),
        ("nonsense://", "give the path"),
        ("postgresql+psycopg2://me:hunter2@127.0.0.1:1/x", "cannot be opened"),
        ("/proc/no/such/records.db", "cannot be written"),
        ("{here}/no.db", "cannot be opened"),
    ],
)
def test_what_cannot_be_opened_is_refused_without_its_password(url, words, tmp_path):
    (tmp_path / "no.db").write_text("These are words, and no database. " * 100)
    with pytest.raises(BadValue, match="records") as error:
        open_database(url.format(here=tmp_path))
    assert words in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.slow
def test_postgres_serves_as_well_and_its_return_is_noticed():
    with postgres() as url:
        engine = open_database(url)
        prepare(engine, TABLES)
        with engine.begin() as transaction:
            transaction.execute(insert(COUNT).values(id=1, n=1))
        with engine.begin() as transaction:
            transaction.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        with reading(engine) as connection:
            assert connection.execute(select(COUNT.c.n)).scalar_one() == 1
        assert scrub(engine, "blobs")
        engine.dispose()
