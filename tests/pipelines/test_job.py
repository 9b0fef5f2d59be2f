import pyarrow as pa
import pytest

from infra.errors import RunInUse
from infra.storage import open_store
from pipelines.job import Run, counts, locked
from stages.models.faces import ModelCard

ROWS = pa.table(
    {
        "id": ["a", "b", "c", "d"],
        "rejected_by": ["", "no_face", "no_face", ""],
        "error": ["", "", "", "dns"],
        "timings": pa.array(
            [[("Keep", 0.5)], [("Keep", 0.25)], [], []], pa.map_(pa.string(), pa.float32())
        ),
    }
)


class Work:
    """Writes four rows, and counts how often it was asked to."""

    def __init__(self, fail=False):
        self.calls, self.fail, self.found = 0, fail, []

    def __call__(self, folder):
        self.calls += 1
        self.found = folder.files()
        folder.write_table("part.parquet", ROWS)
        if self.fail:
            raise RuntimeError("killed")


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path))


def do(store, work, run="r1", settings=None, inputs=("i",), models=()):
    return Run(store, run).do(
        "ingest", work, settings=settings or {}, inputs=list(inputs), models=models
    )


def test_a_job_is_done_once(store):
    work = Work()
    first, second = do(store, work), do(store, work)
    assert work.calls == 1
    assert (first.reused, second.reused) == (False, True)
    assert first.fingerprint == second.fingerprint


def test_its_record_counts_every_row_once(store):
    record = do(store, Work())
    assert (record.rows, record.keep, record.reject, record.error) == (
        4,
        1,
        {"no_face": 2},
        {"dns": 1},
    )
    assert record.stage_seconds == {"Keep": (2, 0.75)}


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"x": 1}},
        {"inputs": ("j",)},
        {"models": (ModelCard("m", "0" * 64, "CC0", "here"),)},
    ],
)
def test_what_decides_the_result_is_in_the_fingerprint(store, change):
    work = Work()
    do(store, work)
    do(store, work, **change)
    assert work.calls == 2


def test_another_run_points_to_what_is_done_instead_of_doing_it_again(store):
    work = Work()
    do(store, work, "r1")
    record = do(store, work, "r2")
    assert work.calls == 1
    assert record.data == "r1/ingest/data"
    assert Run(store, "r2").data(record).files(".parquet") != []
    assert do(store, work, "r2").reused


def test_after_a_crash_the_job_finds_what_it_left(store):
    with pytest.raises(RuntimeError):
        do(store, Work(fail=True))
    again = Work()
    assert not do(store, again).reused
    assert len(again.found) == 1


def test_what_another_recipe_left_is_cleared_first(store):
    with pytest.raises(RuntimeError):
        do(store, Work(fail=True), settings={"x": 1})
    again = Work()
    do(store, again, settings={"x": 2})
    assert again.found == []


def test_a_lost_folder_is_made_again(store):
    do(store, Work())
    (store / "r1/ingest/data").clear()
    work = Work()
    assert not do(store, work).reused
    assert work.calls == 1


def test_a_run_in_use_is_refused(store):
    run = Run(store, "r1")
    again = Run(store, "r1").folder
    with locked(run.folder), pytest.raises(RunInUse, match="Wait for it"), locked(again):
        pass
    with locked(again):
        assert run.folder.exists(".lock")


def test_statuses_in_the_path_are_read_as_well(store):
    for status, part in (("keep", ROWS.slice(0, 1)), ("reject", ROWS.slice(1, 2))):
        (store / "data").write_table(f"status={status}/x.parquet", part)
    assert counts(store / "data")["reject"] == {"no_face": 2}
    assert counts(store / "nothing") == {}
