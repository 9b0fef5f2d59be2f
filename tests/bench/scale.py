"""How curating grows with cores, and with a billion URLs: ``python -m tests.bench.scale``.

* ``visage curate lfw`` on the same photographs with one core and with two: speed-up, efficiency,
  seconds per stage from its job.json.
* What one picture of the web costs on one core: fetched from a server on loopback, looked at at
  640 px. Seeding and the comparison of hashes, which one process does.
* From these, what ten nodes would need for a billion URLs, and what of it is the bottleneck.

What is assumed and not measured is in ``tests.bench.scale_model.Assumed``, and printed.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from tests.bench.scale_model import Assumed, Costs, forecast

BLOCK_ROWS = 25


@dataclass(frozen=True, kw_only=True)
class Run:
    """One ``visage curate``."""

    cores: int
    rows: int
    run_s: float
    jobs: dict[str, float]
    stages: dict[str, float]
    """Busy seconds, summed over workers."""
    rows_per_s: float
    """Of ingest once it runs: from the first files to the last."""
    decided_bytes: float
    """Per row, of the table that dedupe holds in memory."""


def measure(tar: Path, rows: int) -> tuple[Run, Run, Costs]:
    """Measure everything, on the first ``rows`` photographs of ``tar``."""
    with tempfile.TemporaryDirectory() as home:
        some = subset(tar, Path(home) / "some.tar", rows)
        one, two = (curate(some, Path(home) / f"store-{n}", n) for n in (1, 2))
        command = [sys.executable, "-m", "tests.bench.scale", "--costs", some]
        told = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, check=True, timeout=600,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            preexec_fn=partial(os.sched_setaffinity, 0, [0]),
        )  # fmt: skip
        costs = json.loads(told.stdout.splitlines()[-1])
    more = {"export_s": one.jobs["export"] / one.rows, "decided_bytes": one.decided_bytes}
    return one, two, Costs(**costs, **more)


def subset(tar: Path, target: Path, rows: int) -> Path:
    """Copy the first photographs into a tar of their own."""
    with tarfile.open(tar) as held, tarfile.open(target, "w") as some:
        pictures = (info for info in held if info.name.endswith(".jpg"))
        for _, info in zip(range(rows), pictures, strict=False):
            some.addfile(info, held.extractfile(info))
    return target


def curate(tar: Path, store: Path, cores: int) -> Run:
    """Call the command as people do, on some cores: Ray counts those it may use."""
    command = [Path(sys.executable).with_name("visage"), "curate", "lfw", "--json"]
    command += ["--source.path", tar, "--store", store, "--workers.block-rows", BLOCK_ROWS]
    began = time.monotonic()
    told = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=900, check=False,
        preexec_fn=partial(os.sched_setaffinity, 0, range(cores)),
    )  # fmt: skip
    run_s = time.monotonic() - began
    if told.returncode:
        sys.exit(f"visage curate ended with code {told.returncode}: {told.stderr[-2000:]}")
    result = json.loads(told.stdout.splitlines()[-1])
    jobs = json.loads(Path(result["path"], "run.json").read_text())["jobs"]
    stages = {name: spent for job in jobs for name, (_, spent) in job["stage_seconds"].items()}
    seconds = {job["job"]: job["seconds"] for job in jobs}
    return Run(
        cores=cores, rows=result["rows"], run_s=run_s, jobs=seconds, stages=stages,
        rows_per_s=running(Path(result["path"], "ingest/data"), cores),
        decided_bytes=held_by_dedupe(result["path"]) / result["rows"],
    )  # fmt: skip


def running(data: Path, cores: int) -> float:
    """Return the rows per second between the first block of each worker and the last block."""
    import pyarrow.parquet as pq

    files = sorted(data.rglob("*.parquet"), key=lambda path: path.stat().st_mtime)
    times, rows = zip(
        *((f.stat().st_mtime, pq.read_metadata(f).num_rows) for f in files), strict=True
    )
    return sum(rows[cores:]) / (times[-1] - times[cores - 1])


def held_by_dedupe(run: str) -> int:
    """Return the bytes of the table that dedupe reads, which is its run's every row at once."""
    from infra.storage import open_folder
    from pipelines.dedupe import read
    from stages.columns import DECISIONS
    from stages.copies.keepers import COMPARED

    return read(open_folder(f"{run}/keep/data"), [*DECISIONS, *COMPARED]).nbytes


def row_costs(tar: Path) -> dict:
    """Measure what one row costs on one core."""
    import torch

    torch.set_num_threads(1)
    pictures = enlarged(tar, 64)
    seed_s = seeding_s()
    return {
        "fetch_s": fetching_s(pictures, 600),
        "look_s": looking_s(pictures),
        "picture_bytes": sum(map(len, pictures)) / len(pictures),
        "seed_s": seed_s,
        "near_s": comparing(),
    }


def enlarged(tar: Path, count: int) -> list[bytes]:
    """Return some photographs at the size of the web's."""
    from PIL import Image

    side, found = Assumed().side_px, []
    with tarfile.open(tar) as held:
        for info in (info for info in held if info.name.endswith(".jpg")):
            with Image.open(held.extractfile(info)) as image:
                packed = io.BytesIO()
                image.resize((side, side), Image.Resampling.LANCZOS).save(
                    packed, "JPEG", quality=90
                )
            found.append(packed.getvalue())
            if len(found) == count:
                break
    return found


def looking_s(pictures: list[bytes]) -> dict[str, float]:
    """Call the stages of ``faceid_6m`` that see pixels in a plain loop; return seconds by stage."""
    import pyarrow as pa

    from pipelines.ingest import looking
    from pipelines.recipes import faceid_6m
    from stages.chain import Chain

    chain, spent = Chain([make() for make in looking(faceid_6m())]), {}
    blank = {name: [""] * 16 for name in ("rejected_by", "error", "error_detail")}
    for start in range(0, len(pictures), 16):
        rows = pa.table(
            {"blob": pa.array(pictures[start : start + 16], pa.large_binary()), **blank}
        )
        if start == 0:
            chain(rows)  # the first call of a network is slower than all others
        for timings in chain(rows)["timings"].to_pylist():
            for stage, seconds in timings:
                spent[stage] = spent.get(stage, 0.0) + seconds
    return {stage: seconds / len(pictures) for stage, seconds in spent.items()}


def fetching_s(pictures: list[bytes], count: int) -> float:
    """Fetch over loopback, a connection each and no TLS; return CPU seconds per picture."""
    from stages.web.fetch import Fetch
    from stages.web.settings import FetchSettings

    with served(pictures) as address:
        fetch = Fetch(FetchSettings(allow_loopback=True, per_host=64))
        urls = [f"{address}/{n % len(pictures)}.jpg?{n}" for n in range(count)]
        fetch({"url": urls[:16]})
        began = time.process_time()
        answers = fetch({"url": urls})
        spent = time.process_time() - began
        fetch.close()
    if any(answers["error"]):
        sys.exit(f"the server on loopback failed: {set(answers['error'])}")
    return spent / count


@contextmanager
def served(pictures: list[bytes]):
    """Serve pictures from a process of its own; yield its address."""
    with tempfile.TemporaryDirectory() as folder:
        for n, picture in enumerate(pictures):
            Path(folder, f"{n}.jpg").write_bytes(picture)
        command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
        server = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            address = server.stdout.readline().rpartition("(")[2].rstrip("/) .\n")
            yield address
        finally:
            server.kill()
            server.wait()


def seeding_s(rows: int = 100_000) -> float:
    """Seed a table of URLs; return seconds per row."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from rich.console import Console

    from infra.storage import open_folder
    from pipelines.progress import Reporter
    from pipelines.recipes import faceid_6m
    from pipelines.seed import seed
    from pipelines.sources import list_source

    with tempfile.TemporaryDirectory() as folder:
        urls = [f"https://host{n % 9973}.example/pictures/{n}/portrait.jpg" for n in range(rows)]
        captions = ["portrait of a smiling woman in a park"] * rows
        pq.write_table(pa.table({"url": urls, "caption": captions}), f"{folder}/urls.parquet")
        recipe = faceid_6m()
        recipe = replace(recipe, source=replace(recipe.source, path=f"{folder}/urls.parquet"))
        reporter = Reporter(Console(file=io.StringIO()))
        began = time.perf_counter()
        seed(list_source(recipe.source), recipe, open_folder(f"{folder}/seed"), reporter)
        return (time.perf_counter() - began) / rows


def comparing(rows: int = 250_000) -> tuple[float, float]:
    """Look for near hashes among random ones; return seconds per row, and per row and row."""
    import numpy as np

    from stages.copies.bands import join_near
    from stages.copies.looks import Groups, Looks

    def each_s(rows: int) -> float:
        plain, mirrors = np.random.default_rng(0).integers(0, 256, (2, rows, 32), np.uint8)
        began = time.perf_counter()
        join_near(Looks(plain, mirrors), 31, Groups(rows))
        return (time.perf_counter() - began) / rows

    few, many = each_s(rows), each_s(4 * rows)
    pair_s = max(0.0, (many - few) / (3 * rows))
    return few - pair_s * rows, pair_s


def show(one: Run, two: Run, costs: Costs) -> None:
    """Print what was measured, and what follows."""
    print(f"{one.rows} photographs, lfw:        1 core   2 cores  speed-up  efficiency")
    pairs = {"whole run": (one.run_s, two.run_s)}
    pairs |= {job: (one.jobs[job], two.jobs[job]) for job in ("ingest", "export")}
    for what, (slow, fast) in pairs.items():
        print(f"{what:24}{slow:9.1f} s{fast:8.1f} s{slow / fast:9.2f}{slow / fast / 2:11.0%}")
    gain = speed_up(one, two)
    print(
        f"{'ingest, once it runs':24}{one.rows_per_s:9.1f}/s{two.rows_per_s:8.1f}/s"
        f"{gain:8.2f}{gain / 2:11.0%}"
    )
    print("\nbusy seconds by stage (job.json), 1 core, 2 cores:")
    for stage, spent in sorted(one.stages.items(), key=lambda item: -item[1]):
        print(f"{stage:24}{spent:9.2f} s{two.stages[stage]:8.2f} s")
    print("\none core, a picture of 640 px:")
    for stage, seconds in {"Fetch (CPU)": costs.fetch_s, **costs.look_s}.items():
        print(f"{stage:24}{seconds * 1000:9.2f} ms")
    print(f"seed {1e-3 / costs.seed_s:.0f} thousand rows/s, one process; "
          f"near hashes {1e6 * costs.near_s[0]:.0f} us per row and {1e12 * costs.near_s[1]:.1f} ps "
          "per row and row, one core\n")  # fmt: skip
    print(f"assumed: {', '.join(f'{k} {v:g}' for k, v in asdict(Assumed()).items())}")
    for gpus in (0, Assumed().gpus):
        print(f"\n{forecast(costs, min(gain / 2, 1), replace(Assumed(), gpus=gpus)).words}")


def speed_up(one: Run, two: Run) -> float:
    """Return how much faster two cores ingest than one, once both are at it."""
    return two.rows_per_s / one.rows_per_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("VISAGE_TEST_DATA", ""))
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--costs", type=Path, help="only what one row costs, on this tar")
    asked = parser.parse_args()
    if asked.costs:
        print(json.dumps(row_costs(asked.costs)))
        return
    tar = Path(asked.data) / "lfw-dev.tar"
    if not tar.exists():
        sys.exit(f"{tar} is not there: name the photographs with --data or VISAGE_TEST_DATA.")
    busy = os.getloadavg()[0]
    one, two, costs = measure(tar, asked.rows)
    if busy > 1:
        print(f"NOT TO BE QUOTED: others kept {busy:.1f} of {os.cpu_count()} cores busy.\n")
    show(one, two, costs)
    if asked.json:
        told = {"one": asdict(one), "two": asdict(two), "costs": asdict(costs)}
        print(json.dumps(told | {"speed_up": speed_up(one, two)}))


if __name__ == "__main__":
    main()
