"""The numbers of curation, read where Prometheus reads them."""

import re
import time
import urllib.request
from collections import defaultdict
from io import StringIO

import pyarrow as pa
import pytest
import ray
from rich.console import Console

from infra.storage import open_folder
from pipelines.apply import Pool, apply
from pipelines.counters import count_decided
from pipelines.job import JobRecord
from pipelines.progress import Reporter
from pipelines.rows import map_rows

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # Ray tells its numbers every ten seconds
N = 60


def stages():
    """Make stages; defined in here, so that workers get them by value."""

    class Measure:
        reads = ("width_px",)
        writes = ("height_px",)

        def __call__(self, batch):
            if 13 in list(batch["width_px"]):
                raise ValueError("thirteen")
            return {"height_px": list(batch["width_px"])}

    class Judge:
        reads = ("height_px",)
        writes = ("rejected_by",)

        def __call__(self, batch):
            return {"rejected_by": ["small_picture" if h < 10 else "" for h in batch["height_px"]]}

    return Measure, Judge


def in_two_pools(rows):
    measure, judge = stages()
    rows = apply(rows, measure, pool=Pool(batch_rows=20))
    return apply(rows, judge, pool=Pool(batch_rows=20, workers=1))


def exported(run):
    """Return the numbers of a run from the node's metrics port, by name and labels."""
    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = defaultdict(float)
    for line in lines:
        named = re.fullmatch(r"ray_visage_(\w+)\{(.*)\} (\S+)", line)
        if named and f'run="{run}"' in named[2]:
            labels = dict(re.findall(r'(status|reason|stage)="([^"]*)"', named[2]))
            found[named[1], *(labels[name] for name in sorted(labels))] += float(named[3])
    return found


@pytest.mark.usefixtures("local_ray")
def test_a_run_tells_prometheus_of_every_row_once_and_of_every_stage(tmp_path):
    home, run = open_folder(str(tmp_path)), "counted-run"
    rows = {
        "id": [f"{i:04d}" for i in range(N)],
        "width_px": pa.array(range(N), pa.int32()),
        "rejected_by": ["no_human_term" if i % 5 == 0 else "" for i in range(N)],
        "error": [""] * N,
        "error_detail": [""] * N,
    }
    (home / "in").write_table("rows.parquet", pa.table(rows))
    map_rows(
        home / "in", (home / "job/data").make(), in_two_pools,
        checkpoint=home / "job/checkpoint", block_rows=20,
        reporter=Reporter(Console(file=StringIO()), run),
    )  # fmt: skip
    about = {"job": "j", "fingerprint": "f", "data": "d"}
    ingest = JobRecord(**about, reject={"no_human_term": 12, "small_picture": 8})
    keep = JobRecord(**about, stage_seconds={"Keep": (39, 0.5)})
    rejected = {"no_human_term": 12, "small_picture": 8, "near_duplicate": 3}
    count_decided(run, ingest, keep, JobRecord(**about, keep=36, reject=rejected))

    ends = time.monotonic() + 40
    while ("rows_total", "", "keep") not in (found := exported(run)):
        assert time.monotonic() < ends, dict(found)
        time.sleep(0.5)
    assert {key: n for key, n in found.items() if key[0] == "rows_total"} == {
        ("rows_total", "no_human_term", "reject"): 12,
        ("rows_total", "small_picture", "reject"): 8,
        ("rows_total", "stage_failed", "error"): 1,
        ("rows_total", "near_duplicate", "reject"): 3,
        ("rows_total", "", "keep"): 36,
    }
    assert found["ingested_rows_total",] == N
    assert found["stage_rows_total", "Measure"] == 48
    assert found["stage_rows_total", "Judge"] == 47
    assert found["stage_seconds_total", "Keep"] == 0.5
    assert found["stage_seconds_total", "Measure"] > 0
