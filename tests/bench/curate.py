"""How fast, and how large, curating is: ``python -m tests.bench.curate``.

Side by side in one go, on the same photographs:

* the whole of ``visage curate lfw`` on two cores, from the first import to the last artefact;
* the same stages called in a plain loop, without Ray, on one core.

Memory is what the processes of the run hold for themselves (USS), summed, at its highest.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Speed:
    """What was measured."""

    rows: int
    run_s: float
    plain_s: float
    peak_gib: float
    jobs: dict[str, float]

    @property
    def ratio(self) -> float:
        """How many times faster the run is than the plain loop."""
        return self.plain_s / self.run_s


def measure(tar: Path, cores: int = 2) -> Speed:
    """Curate the photographs of ``tar`` both ways."""
    with tempfile.TemporaryDirectory() as store:
        result, run_s, peak = _run(tar, store, cores)
        record = json.loads(Path(result["path"], "run.json").read_text())
        plain_s = _plain(tar)
        jobs = {job["job"]: job["seconds"] for job in record["jobs"]}
    return Speed(result["rows"], run_s, plain_s, peak / 2**30, jobs)


def _run(tar: Path, store: str, cores: int) -> tuple[dict, float, int]:
    """Call the command as people do, and watch its memory."""
    command = [Path(sys.executable).with_name("visage"), "curate", "lfw"]
    command += ["--source.path", tar, "--store", store, "--json"]
    began = time.monotonic()
    run = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, text=True,
        preexec_fn=partial(os.sched_setaffinity, 0, range(cores)),
    )  # fmt: skip
    peaks = [0]
    watcher = threading.Thread(target=_watch, args=(psutil.Process(run.pid), peaks), daemon=True)
    watcher.start()
    out, _ = run.communicate(timeout=600)
    if run.returncode:
        sys.exit(f"visage curate ended with code {run.returncode}")
    return json.loads(out.splitlines()[-1]), time.monotonic() - began, peaks[0]


def _watch(process: psutil.Process, peaks: list[int]) -> None:
    """Note the highest sum of private memory over a process and all below it."""
    while process.is_running():
        total = 0
        try:
            family = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for one in family:
            try:
                total += one.memory_full_info().uss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        peaks[0] = max(peaks[0], total)
        time.sleep(0.5)


def _plain(tar: Path) -> float:
    """Call the same stages in a loop, in a process of its own on one core."""
    command = [sys.executable, "-m", "tests.bench.curate", "--plain", str(tar)]
    told = subprocess.run(
        command, capture_output=True, text=True, check=True,
        preexec_fn=partial(os.sched_setaffinity, 0, [0]),
    )  # fmt: skip
    return float(told.stdout.splitlines()[-1])


def plain_loop(tar: Path) -> float:
    """Return the seconds that the loop takes, weights loaded, nothing written."""
    began = time.monotonic()
    import pyarrow.parquet as pq
    import torch
    from rich.console import Console

    from infra.storage import open_folder
    from pipelines.ingest import looking
    from pipelines.progress import Reporter
    from pipelines.recipes import lfw
    from pipelines.seed import seed
    from pipelines.sources import list_source
    from stages.chain import Chain
    from stages.keep import Keep
    from stages.read import Read

    torch.set_num_threads(1)
    recipe = replace(lfw(), source=replace(lfw().source, path=str(tar)))
    stages = [make() for make in (Read, *looking(recipe), partial(Keep, recipe.keep))]
    with tempfile.TemporaryDirectory() as folder:
        reporter = Reporter(Console(file=StringIO()))
        seed(list_source(recipe.source), recipe, open_folder(folder), reporter)
        rows = pq.read_table(folder)
    chain, size = Chain(stages), recipe.workers.batch_rows
    for start in range(0, rows.num_rows, size):
        chain(rows.slice(start, size))
    return time.monotonic() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("VISAGE_TEST_DATA", ""))
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--plain", type=Path, help="only the loop, on this tar")
    asked = parser.parse_args()
    if asked.plain:
        print(plain_loop(asked.plain))
        return
    tar = Path(asked.data) / "lfw-dev.tar"
    if not tar.exists():
        sys.exit(f"{tar} is not there: name the photographs with --data or VISAGE_TEST_DATA.")
    speed = measure(tar, asked.cores)
    for what, seconds in (
        (f"whole run, {asked.cores} cores", speed.run_s),
        (f"ingest of it, {asked.cores} cores", speed.jobs["ingest"]),
        ("plain loop, 1 core", speed.plain_s),
    ):
        print(f"{what:22}{seconds:7.1f} s  {speed.rows / seconds:6.1f} rows/s")
    print(f"{'ratio, whole run':22}{speed.ratio:7.2f}    (aim: 1.5)")
    print(f"{'ratio, ingest':22}{speed.plain_s / speed.jobs['ingest']:7.2f}")
    print(f"{'private memory':22}{speed.peak_gib:7.2f} GiB  (at most 3)")
    print("jobs: " + ", ".join(f"{job} {seconds:.1f} s" for job, seconds in speed.jobs.items()))


if __name__ == "__main__":
    main()
