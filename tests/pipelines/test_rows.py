"""Ray Data under the checkpoint: exactly once, whatever happens meanwhile."""

from io import StringIO

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
import ray.data
from rich.console import Console

from infra.errors import JobFailed
from infra.storage import open_folder
from pipelines.apply import Pool, apply
from pipelines.progress import Reporter
from pipelines.rows import map_rows

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
N = 200


@pytest.fixture
def home(tmp_path):
    home = open_folder(str(tmp_path))
    rows = {
        "id": [f"{i:04d}" for i in range(N)],
        "width_px": pa.array(range(N), pa.int32()),
        "rejected_by": ["no_face" if i % 5 == 0 else "" for i in range(N)],
        "error": [""] * N,
        "error_detail": [""] * N,
    }
    (home / "in").write_table("rows.parquet", pa.table(rows))
    return home


def run(home, build, reporter=None):
    map_rows(
        home / "in",
        (home / "job/data").make(),
        build,
        checkpoint=home / "job/checkpoint",
        block_rows=20,
        reporter=reporter or Reporter(Console(file=StringIO())),
    )


def written(home):
    """Return (id, status, height) of every row, in the order of ids."""
    rows = pads.dataset(
        (home / "job/data").files(".parquet"), partitioning="hive", format="parquet",
        partition_base_dir=(home / "job/data").path,
    ).to_table(columns=["id", "status", "height_px"])  # fmt: skip
    return sorted((r["id"], r["status"], r["height_px"]) for r in rows.to_pylist())


def doubling():
    """Make a stage; defined in here, so that workers get it by value."""

    class Double:
        reads = ("width_px",)
        writes = ("height_px",)

        def __call__(self, batch):
            if 13 in list(batch["width_px"]):
                raise ValueError("thirteen")
            return {"height_px": [2 * w for w in batch["width_px"]]}

    return lambda rows: apply(rows, Double, pool=Pool(batch_rows=7, workers=2, cpus=0.5))


def expected(i):
    """Return what must become of row ``i``: every fifth came rejected, 13 is poison."""
    if i % 5 == 0:
        return f"{i:04d}", "reject", None
    return (f"{i:04d}", "error", None) if i == 13 else (f"{i:04d}", "keep", 2 * i)


EXPECTED = [expected(i) for i in range(N)]


def test_one_row_in_is_one_row_out_and_a_poison_row_is_an_error(home):
    run(home, doubling())
    assert written(home) == EXPECTED


def test_a_second_call_writes_nothing_twice(home):
    run(home, doubling())
    run(home, doubling())
    assert written(home) == EXPECTED


def test_plain_tasks_do_the_same(home):
    class Double:
        reads = ("width_px",)
        writes = ("height_px",)

        def __call__(self, batch):
            return {"height_px": [2 * w for w in batch["width_px"]]}

    run(home, lambda rows: apply(rows, Double, pool=Pool(batch_rows=50)))
    assert [row[0] for row in written(home)] == [row[0] for row in EXPECTED]


def test_what_was_written_before_a_crash_is_not_written_again(home):
    stop = home.path + "/stop"
    open_folder(home.path).write("stop", "")

    def failing(rows):
        def work(table):
            from pathlib import Path

            if table["id"][0].as_py() >= "0100" and Path(stop).exists():
                raise RuntimeError("power cut")
            heights = pa.array([2 * w for w in table["width_px"].to_pylist()], pa.int32())
            keep = pa.array(["keep"] * len(table))
            return table.append_column("height_px", heights).append_column("status", keep)

        return rows.map_batches(work, batch_size=20, batch_format="pyarrow")

    with pytest.raises(Exception, match="power cut"):
        run(home, failing)
    before = set((home / "job/data").files(".parquet"))
    (home / "stop").fs.delete_file(stop)
    run(home, failing)
    ids = [row[0] for row in written(home)]
    assert ids == [f"{i:04d}" for i in range(N)]
    assert before <= set((home / "job/data").files(".parquet"))


def test_a_row_that_a_job_loses_is_noticed(home):
    def losing(rows):
        from ray.data.expressions import col

        return doubling()(rows).filter(expr=col("id") != "0042")

    with pytest.raises(JobFailed, match=r"given 200 rows and wrote 199"):
        run(home, losing)


def test_the_checkpoint_does_not_leak_into_later_reads(home):
    run(home, doubling())
    assert ray.data.read_parquet((home / "in").path).count() == N


def test_progress_says_rows_and_rate(home):
    reporter = Reporter(Console(file=StringIO()))
    seen = []
    reporter.rows = seen.append
    run(home, doubling(), reporter)
    assert seen[-1] == N
    assert seen == sorted(seen)
