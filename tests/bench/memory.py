"""Whether memory stays bounded when a corpus is larger: ``python -m tests.bench.memory``.

Rows of 50 KB go the way of ``ingest`` from the web, with 512 MiB for Ray's object store: one pool
brings the bytes (from a local file, the web left out), passes them to another, which hashes them
(faces left out), and they are written to Parquet under the checkpoint. So what is measured are the
seam, Ray Data and the writing, which hold rows; stages hold one batch each.

Memory is what this process and all below it have for themselves, summed, and the pages of the
object store, which they share. The bytes repeat themselves, so that the disk gets a few per cent
of them; in memory they are as large as any.
"""

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from tests.bench.fetch import HashFiles

ROW_BYTES = 50_000
STORE_BYTES = 512 * 2**20
_DISTINCT = 2_000
_PERIOD_BYTES = 500


@dataclass(frozen=True)
class Peak:
    """The highest memory since the beginning, when so many rows were done."""

    rows: int
    total_bytes: int
    store_bytes: int
    """Of it, the object store's pages."""
    after_s: float


class Watch(threading.Thread):
    """Note the highest memory of this process and of all below it at some numbers of rows."""

    def __init__(self, marks: list[int]) -> None:
        super().__init__(daemon=True)
        self.marks, self.done = marks, 0
        self.peaks: list[Peak] = []
        self._ended = threading.Event()

    def run(self) -> None:
        """Sample until ``end``."""
        began, total, store, left = time.monotonic(), 0, 0, list(self.marks)
        while left:
            ended = self._ended.wait(0.5)
            now, shared = _memory()
            total, store = max(total, now), max(store, shared)
            while left and (self.done >= left[0] or ended):
                self.peaks.append(Peak(left.pop(0), total, store, time.monotonic() - began))

    def end(self) -> None:
        """Take the last sample."""
        self._ended.set()
        self.join()


def _memory() -> tuple[int, int]:
    """Return bytes of the whole family, and of these what the object store has ever touched."""
    private = store = 0
    for one in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with suppress(psutil.Error, OSError):
            private += one.memory_full_info().uss
            if one.name() == "raylet":
                for file in Path(f"/proc/{one.pid}/fd").iterdir():
                    if "plasma" in str(file.readlink()):
                        store = max(store, file.stat().st_blocks * 512)
    return private + store, store


def _write_source(home: Path, rows: int) -> None:
    """Write some distinct pictures as one file, and rows that point into it in turn."""
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    period = rng.integers(0, 256, (_DISTINCT, _PERIOD_BYTES), dtype=np.uint8)
    np.tile(period, ROW_BYTES // _PERIOD_BYTES).tofile(home / "pictures.tar")
    number = np.arange(rows)
    blank, tar = pa.array(np.full(rows, "")), str(home / "pictures.tar")
    table = pa.table({
        "id": [f"{n:032x}" for n in number], "source": np.full(rows, tar),
        "member": blank, "offset": number % _DISTINCT * ROW_BYTES,
        "length": np.full(rows, ROW_BYTES), "rejected_by": blank, "error": blank,
        "error_detail": blank,
    })  # fmt: skip
    (home / "in").mkdir()
    pq.write_table(table, home / "in/rows.parquet")


def measure(rows: int, home: Path) -> list[Peak]:
    """Carry rows through two pools into Parquet; return the peaks at a quarter, a half, all."""
    import ray.data
    from rich.console import Console

    from infra import cluster
    from infra.storage import open_folder
    from pipelines.apply import Pool, apply
    from pipelines.ingest import FETCHER_CPUS
    from pipelines.progress import Reporter
    from pipelines.recipes import Workers
    from pipelines.rows import map_rows
    from stages.read import Read

    _write_source(home, rows)
    watch, hands, store = Watch([rows // 4, rows // 2, rows]), Workers(), open_folder(str(home))

    class Counting(Reporter):
        def rows(self, done: int) -> None:
            watch.done = done

    def build(ds: ray.data.Dataset) -> ray.data.Dataset:
        fetchers = Pool(batch_rows=hands.block_rows, workers=1, cpus=FETCHER_CPUS)
        lookers = Pool(batch_rows=hands.batch_rows, workers=2, cpus=hands.cpus_per_looker)
        return apply(apply(ds, Read, pool=fetchers), HashFiles, pool=lookers)

    cluster.OBJECT_STORE_BYTES = STORE_BYTES
    with cluster.cluster():
        watch.start()
        map_rows(
            store / "in",
            (store / "job/data").make(),
            build,
            checkpoint=store / "job/checkpoint",
            block_rows=hands.block_rows,
            reporter=Counting(Console(file=StringIO())),
        )
        watch.end()
    return watch.peaks


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--dir", default=tempfile.gettempdir(), help="needs 5 KB per row")
    asked = parser.parse_args()
    if shutil.disk_usage(asked.dir).free < 5_000 * asked.rows + 2**30:
        sys.exit(f"{asked.dir} has too little room: name another place with --dir.")
    os.sched_setaffinity(0, range(asked.cores))
    with tempfile.TemporaryDirectory(dir=asked.dir) as folder:
        peaks = measure(asked.rows, Path(folder))
        disk = sum(p.stat().st_size for p in Path(folder, "job/data").rglob("*.parquet"))
    print(f"{asked.rows} rows of {ROW_BYTES} bytes, object store {STORE_BYTES >> 20} MiB, "
          f"{asked.cores} cores; {disk / 1e9:.2f} GB on disk")  # fmt: skip
    for peak in peaks:
        print(f"{peak.rows:8} rows {peak.after_s:7.1f} s   peak {peak.total_bytes / 2**30:5.2f} GiB"
              f"   of it object store {peak.store_bytes / 2**20:5.0f} MiB")  # fmt: skip


if __name__ == "__main__":
    main()
