"""Rows that kill: what a worker does, and what its successors make of what it left."""

import json

import pyarrow as pa
import pytest

from stages.chain import Chain
from stages.poison import HOPELESS_ROWS, Careful, WorkersDie


class Died(BaseException):
    """The end of a process: nothing in it may be done after this."""


class Fatal:
    """A stage that some rows kill, and that notes how large its batches were."""

    reads = ("width_px",)
    writes = ("height_px",)

    def __init__(self, *poison):
        self.poison = set(poison)
        self.batches = []

    def __call__(self, batch):
        widths = list(batch["width_px"])
        self.batches.append(len(widths))
        if self.poison & set(widths):
            raise Died
        return {"height_px": [2 * width for width in widths]}


def table(*widths):
    rows = len(widths)
    blank = pa.array([""] * rows, pa.string())
    return pa.table({"id": [f"id{w}" for w in widths], "width_px": pa.array(widths, pa.int32()),
                     "rejected_by": blank, "error": blank})  # fmt: skip


def outlive(stage, note, rows, deaths=0):
    """Do rows with one process after the other; return what came out and how many died."""
    try:
        return Careful(Chain([stage]), note)(rows), deaths
    except Died:
        assert deaths < 200, "no end"
        return outlive(stage, note, rows, deaths + 1)


@pytest.fixture
def note(tmp_path):
    return tmp_path / "worker.json"


def errors(out):
    return [width for width, error in zip(out["width_px"].to_pylist(), out["error"].to_pylist(),
                                          strict=True) if error == "crashed"]  # fmt: skip


@pytest.mark.parametrize("poison", [(3,), (0,), (15,), (3, 4), (0, 7, 15)])
def test_rows_that_kill_are_errors_and_all_others_are_as_if_nothing_had_been(note, poison):
    rows = table(*range(16))
    out, deaths = outlive(Fatal(*poison), note, rows)
    plain = Chain([Fatal()])(rows)
    assert errors(out) == list(poison)
    assert deaths == 1 + 2 * len(poison)
    for name in ("id", "width_px"):
        assert out[name] == plain[name]
    heights = [None if w in poison else 2 * w for w in range(16)]
    assert out["height_px"].to_pylist() == heights
    assert out.schema == plain.schema
    kept = ["error" if w in poison else "keep" for w in range(16)]
    assert out["status"].to_pylist() == kept


def test_a_large_batch_is_divided_before_its_rows_are_done_alone(note):
    stage = Fatal(100)
    out, deaths = outlive(stage, note, table(*range(256)))
    assert errors(out) == [100]
    assert deaths == 4
    assert stage.batches.count(1) < 20
    assert len(stage.batches) < 60


def test_a_worker_killed_from_outside_makes_no_row_guilty(note):
    class Unlucky(Fatal):
        def __call__(self, batch):
            if len(self.batches) in (0, 5):
                self.batches.append(0)
                raise Died
            return super().__call__(batch)

    out, deaths = outlive(Unlucky(), note, table(*range(16)))
    assert deaths == 2
    assert errors(out) == []
    assert out["height_px"].to_pylist() == [2 * w for w in range(16)]


def test_a_guilty_row_is_remembered_while_another_batch_kills(note):
    """A task is tried again from its first batch, not from that in which its worker died."""

    def task(worker):
        return pa.concat_tables([worker(table(*range(8))), worker(table(*range(8, 16)))])

    stage, deaths = Fatal(2, 12), 0
    while True:
        try:
            out = task(Careful(Chain([stage]), note))
            break
        except Died:
            deaths += 1
            assert deaths < 20
    assert errors(out) == [2, 12]
    assert deaths == 6


def test_nothing_is_left_of_work_without_a_death(note):
    Careful(Chain([Fatal()]), note)(table(1, 2, 3))
    assert list(note.parent.iterdir()) == []


def test_what_is_at_work_is_noted_before_it_is_done(note):
    with pytest.raises(Died):
        Careful(Chain([Fatal(2)]), note)(table(1, 2))
    assert json.loads(note.read_text())["at_work"] == ["id1", "id2"]


def test_a_death_counts_once_however_often_successors_die_before_they_work(note):
    with pytest.raises(Died):
        Careful(Chain([Fatal(1)]), note)(table(1))
    for _ in range(5):
        Careful(Chain([Fatal()]), note)
    assert errors(Careful(Chain([Fatal()]), note)(table(1))) == []


def test_an_error_that_is_raised_is_no_crash(note):
    class Raises(Fatal):
        def __call__(self, batch):  # noqa: ARG002
            raise ValueError("no")

    out = Careful(Chain([Raises()]), note)(table(1, 2))
    assert set(out["error"].to_pylist()) == {"stage_failed"}
    assert list(note.parent.iterdir()) == []


def test_stages_that_crash_at_every_row_are_given_up(note):
    stage = Fatal(*range(100))
    with pytest.raises(WorkersDie, match=r"died at 8 rows in succession.*too little memory"):
        outlive(stage, note, table(*range(100)))
    assert len(stage.batches) < 3 * HOPELESS_ROWS


def test_a_table_without_rows_passes(note):
    assert Careful(Chain([Fatal()]), note)(table()).num_rows == 0
