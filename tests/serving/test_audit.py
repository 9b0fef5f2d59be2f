import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select, update

from serving.audit import AUDIT, GENESIS, Audit, append, digest
from serving.database import open_database
from tests.e2e.services import postgres

WRITER = """
import sys
from serving.audit import Audit
from serving.database import open_database
audit = Audit(open_database(sys.argv[1]))
for i in range(int(sys.argv[2])):
    audit.log("used", subject=f"person_{i}", details={"photos": i})
"""


@pytest.fixture
def log(tmp_path):
    engine = open_database(str(tmp_path / "records.db"))
    audit = Audit(engine)
    for i in range(9):
        audit.log("used", key_id="k", subject=f"person_{i}", request_id=f"r{i}", details={"n": i})
    yield audit, engine
    engine.dispose()


def change(engine, *statements):
    with engine.begin() as transaction:
        for statement in statements:
            transaction.execute(statement)


def at(number):
    return AUDIT.c.number == number


def test_an_untouched_log_is_whole_and_tells_its_head(log):
    audit, _ = log
    rows = list(audit.rows())
    assert [row["number"] for row in rows] == list(range(1, 10))
    assert rows[0]["previous"] == GENESIS
    assert all(b["previous"] == a["digest"] for a, b in pairwise(rows))
    seen = audit.verify()
    assert (seen.rows, seen.head, seen.problem) == (9, rows[-1]["digest"], "")
    assert audit.verify(head=rows[4]["digest"]).problem == ""


def test_an_empty_log_is_whole(tmp_path):
    engine = open_database(str(tmp_path / "records.db"))
    seen = Audit(engine).verify()
    assert (seen.rows, seen.head, seen.problem) == (0, GENESIS, "")
    engine.dispose()


@pytest.mark.parametrize(
    "values",
    [
        {"event": "searched"}, {"key_id": "other"}, {"subject": "person_x"}, {"at": 1.0},
        {"request_id": ""}, {"details": "{}"}, {"previous": "0" * 64}, {"digest": "f" * 64},
    ],
)  # fmt: skip
def test_a_changed_row_is_found_and_named(log, values):
    audit, engine = log
    change(engine, update(AUDIT).where(at(5)).values(**values))
    assert audit.verify().problem == "row 5 was changed"
    assert audit.verify().rows == 4


def test_a_removed_row_is_found_and_named(log):
    audit, engine = log
    change(engine, delete(AUDIT).where(at(4)))
    assert audit.verify().problem == "row 4 was removed: row 5 follows row 3"
    change(engine, delete(AUDIT).where(AUDIT.c.number < 4))
    assert audit.verify().problem == "row 1 was removed: row 5 follows row 0"


def test_rows_that_changed_places_are_found_and_named(log):
    audit, engine = log
    change(
        engine,
        update(AUDIT).where(at(3)).values(number=100),
        update(AUDIT).where(at(7)).values(number=3),
        update(AUDIT).where(at(100)).values(number=7),
    )
    assert audit.verify().problem == "row 3 was moved: it was written as row 7"


def test_a_row_put_in_the_place_of_another_is_found_even_if_it_is_whole_in_itself(log):
    audit, engine = log
    rows = list(audit.rows())
    forged = {**rows[5], "subject": "person_x"}
    forged["digest"] = digest(forged)
    change(engine, delete(AUDIT).where(at(6)), insert(AUDIT).values(**forged))
    assert audit.verify().problem == "row 7 does not follow row 6: one of them was replaced"


def test_rows_closed_up_over_a_removed_one_are_found(log):
    audit, engine = log
    moves = [update(AUDIT).where(at(n)).values(number=n - 1) for n in range(5, 10)]
    change(engine, delete(AUDIT).where(at(4)), *moves)
    assert audit.verify().problem == "row 4 was moved: it was written as row 5"


def test_that_the_newest_rows_are_missing_shows_by_a_head_kept_elsewhere(log):
    audit, engine = log
    head = audit.verify().head
    change(engine, delete(AUDIT).where(AUDIT.c.number > 7))
    assert audit.verify().problem == ""
    problem = audit.verify(head=head).problem
    assert "rows behind row 7 were cut off" in problem
    assert head in problem


def written_at_once(url, processes, times):
    """Let processes write rows side by side; return what a look at the log shows."""
    command = [sys.executable, "-c", WRITER, url, str(times)]
    writers = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(processes)]
    assert [one.wait(120) for one in writers] == [0] * processes
    engine = open_database(url)
    seen = Audit(engine).verify()
    engine.dispose()
    return seen.rows, seen.problem


def test_processes_that_write_at_once_make_one_chain(tmp_path):
    assert written_at_once(str(tmp_path / "records.db"), 3, 25) == (75, "")


@pytest.mark.slow
def test_processes_that_write_to_postgres_at_once_make_one_chain():
    with postgres() as url:
        assert written_at_once(url, 3, 25) == (75, "")


def test_a_row_is_there_only_if_the_deed_is(log):
    audit, engine = log

    def fail():
        with engine.begin() as transaction:
            append(transaction, "enrolled")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert audit.verify().rows == 9
    with engine.begin() as transaction:
        append(transaction, "enrolled", details={"b": 1, "a": "ü"})
        written = transaction.execute(select(AUDIT.c.details).where(at(10))).scalar_one()
    assert json.loads(written) == {"a": "ü", "b": 1}
    assert audit.verify().rows == 10
