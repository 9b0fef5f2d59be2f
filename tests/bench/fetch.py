"""How fast pictures come over HTTP: ``python -m tests.bench.fetch``.

A real server (nginx) on this machine serves the photographs of ``lfw-dev.tar``, named often enough
to be as many as all of LFW. Side by side in one go, each a process of its own on the same cores:

* ``stage``: the stage Fetch alone, robots.txt and address checks on, each picture hashed;
* ``command``: seed and fetch through Ray Data into Parquet, Ray's start and end included;
* ``img2dataset``: its command as it comes, into Parquet, which makes every picture 256 px wide;
  and ``img2dataset raw``, its fastest: bytes as they are, as we keep them. Where
  ``--img2dataset`` names one (``pip install img2dataset==1.47.0`` in an environment of its own).

The command's fixed cost, Ray's start, is the same for more pictures: see ``--pictures``.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

LFW_PICTURES = 13_232
_NGINX = """\
worker_processes 1; daemon off; pid {home}/nginx.pid; error_log /dev/null crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; keepalive_requests 1000000; types {{ image/jpeg jpg; }}
  client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  server {{ listen 127.0.0.1:{port}; root {www}; }}
}}
"""


@dataclass(frozen=True)
class Speed:
    """What one way of fetching took."""

    pictures: int
    wall_s: float
    cpu_s: float
    """Of the process and all below it, the server's left out."""

    @property
    def per_s(self) -> float:
        """Pictures per second."""
        return self.pictures / self.wall_s

    @property
    def cpu_s_per_1000(self) -> float:
        """CPU seconds per thousand pictures."""
        return 1000 * self.cpu_s / self.pictures


@contextmanager
def serving(tar: Path, home: Path, port: int = 8932) -> Iterator[list[str]]:
    """Unpack the photographs and serve them with nginx; yield their URLs."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        sys.exit("nginx is not installed: apt-get install nginx-light")
    www = home / "www"
    with tarfile.open(tar) as archive:
        archive.extractall(www, filter="data")
    (www / "robots.txt").write_text("User-agent: *\nDisallow: /private/\n")
    conf = home / "nginx.conf"
    conf.write_text(_NGINX.format(home=home, www=www, port=port))
    server = subprocess.Popen([nginx, "-c", conf, "-p", home], stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        if server.poll() is not None:
            sys.exit(f"nginx did not start; is port {port} in use?")
        files = sorted(path.relative_to(www) for path in www.rglob("*.jpg"))
        yield [f"http://127.0.0.1:{port}/{file}" for file in files]
    finally:
        server.terminate()
        server.wait()


def many(urls: list[str], number: int) -> list[str]:
    """Name the same pictures again with other queries until there are ``number`` URLs."""
    rounds = -(-number // len(urls))
    return [f"{url}?{again}" for again in range(rounds) for url in urls][:number]


def timed(command: list[str], cores: int) -> tuple[float, float, str]:
    """Run a command on some cores; return wall and CPU seconds, and what it printed."""
    began = time.monotonic()
    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=partial(os.sched_setaffinity, 0, range(cores)),
    )  # fmt: skip
    spent: dict[int, float] = {}
    watcher = threading.Thread(target=_watch, args=(psutil.Process(run.pid), spent), daemon=True)
    watcher.start()
    told, complained = run.communicate(timeout=600)
    wall_s = time.monotonic() - began
    if run.returncode:
        sys.exit(f"{command[:4]} ended with code {run.returncode}:\n{complained[-2000:]}")
    return wall_s, sum(spent.values()), told


def _watch(process: psutil.Process, spent: dict[int, float]) -> None:
    """Note the CPU seconds of a process and of all below it, again and again until it ends.

    The operating system adds up only what is waited for, and nobody waits for Ray's workers.
    """
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        with suppress(psutil.NoSuchProcess):
            for one in [process, *process.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    times = one.cpu_times()
                    spent[one.pid] = times.user + times.system
        time.sleep(0.1)


def measure(tar: Path, pictures: int, cores: int, img2dataset: str = "") -> dict[str, Speed]:
    """Fetch the same pictures every way."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        home.chmod(0o755)  # nginx started by root serves as another user
        with serving(tar, home) as urls:
            table = home / "urls.txt"
            table.write_text("\n".join(many(urls, pictures)))
            ways = {"stage": [sys.executable, "-m", "tests.bench.fetch", "--stage", str(table)],
                    "command": [sys.executable, "-m", "tests.bench.fetch", "--command",
                                str(table), "--store", str(home / "store")]}  # fmt: skip
            if img2dataset:
                raw = ("--resize_mode=no", "--disable_all_reencoding=True")
                ways["img2dataset"] = _img2dataset(img2dataset, table, home / "usual")
                ways["img2dataset raw"] = _img2dataset(img2dataset, table, home / "raw", *raw)
            for name, command in ways.items():
                wall_s, cpu_s, told = timed(command, cores)
                if not name.startswith("img2dataset"):
                    own = json.loads(told.splitlines()[-1])
                    assert own["pictures"] == pictures, own
                    if name == "stage":  # a worker is started once and fetches for hours
                        wall_s, cpu_s = own["wall_s"], own["cpu_s"]
                found[name] = Speed(pictures, wall_s, cpu_s)
    return found


def _img2dataset(program: str, table: Path, out: Path, *more: str) -> list[str]:
    return [
        program, f"--url_list={table}", "--input_format=txt", "--output_format=parquet",
        f"--output_folder={out}", "--processes_count=2", "--thread_count=32",
        "--compute_hash=sha256", "--enable_wandb=False", *more,
    ]  # fmt: skip


def stage_alone(table: Path) -> dict[str, float]:
    """Fetch and hash in a plain loop, in batches as large as a worker's."""
    import hashlib

    from stages.web.fetch import Fetch
    from stages.web.settings import FetchSettings

    urls = table.read_text().splitlines()
    stage = Fetch(FetchSettings(allow_loopback=True))
    began, before = time.monotonic(), time.process_time()
    pictures = 0
    for start in range(0, len(urls), 256):
        for blob in stage({"url": urls[start : start + 256]})["blob"]:
            pictures += blob is not None and len(hashlib.sha256(blob).hexdigest()) == 64
    return {
        "pictures": pictures,
        "wall_s": time.monotonic() - began,
        "cpu_s": time.process_time() - before,
    }


class HashFiles:
    """Hash every file: what a crawl needs at least, and what img2dataset is asked for too."""

    reads = ("blob",)
    writes = ("sha256",)

    def __call__(self, batch: dict) -> dict:
        """Add ``sha256``."""
        import hashlib

        return {"sha256": [hashlib.sha256(blob).hexdigest() for blob in batch["blob"]]}


def command_alone(table: Path, store: str) -> dict[str, int]:
    """Seed and fetch as ``visage curate`` does, without looking at faces."""
    from io import StringIO

    from rich.console import Console

    from infra.cluster import cluster
    from infra.storage import open_store
    from pipelines.recipes import FetchSettings, Recipe, Source
    from stages.keep import KeepRules

    recipe = Recipe(
        name="fetch",
        source=Source(path=str(table)),
        fetch=FetchSettings(allow_loopback=True),
        keep=KeepRules(human_terms=()),
    )
    home, reporter_console = open_store(store), Console(file=StringIO())
    with cluster():
        import pyarrow.dataset as pads

        from pipelines.apply import Pool, apply
        from pipelines.ingest import FETCHER_CPUS, fetching
        from pipelines.progress import Reporter
        from pipelines.rows import map_rows
        from pipelines.seed import seed
        from pipelines.sources import list_source

        reporter = Reporter(reporter_console)
        rows, target = (home / "seed").make(), (home / "fetch/data").make()
        seed(list_source(recipe.source), recipe, rows, reporter)
        pool = Pool(batch_rows=256, workers=1, cpus=FETCHER_CPUS)
        map_rows(
            rows,
            target,
            lambda ds: apply(ds, fetching(recipe), HashFiles, pool=pool),
            checkpoint=home / "fetch/checkpoint",
            block_rows=recipe.workers.block_rows,
            reporter=reporter,
        )
        fetched = pads.dataset(target.files(".parquet"), filesystem=target.fs)
        hashed = fetched.count_rows(filter=pads.field("sha256").is_valid())
    return {"pictures": hashed}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("VISAGE_TEST_DATA", ""))
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=LFW_PICTURES)
    parser.add_argument("--img2dataset", default="", help="its program, to compare with")
    parser.add_argument("--stage", type=Path, help="only the stage, on this list")
    parser.add_argument("--command", type=Path, help="only seed and fetch, on this list")
    parser.add_argument("--store", default="store")
    asked = parser.parse_args()
    if asked.stage or asked.command:
        own = stage_alone(asked.stage) if asked.stage else command_alone(asked.command, asked.store)
        print(json.dumps(own))
        return
    tar = Path(asked.data) / "lfw-dev.tar"
    if not tar.exists():
        sys.exit(f"{tar} is not there: name the photographs with --data or VISAGE_TEST_DATA.")
    found = measure(tar, asked.pictures, asked.cores, asked.img2dataset)
    print(f"{asked.pictures} pictures from nginx on this machine, {asked.cores} cores")
    for name, speed in found.items():
        print(f"{name:16}{speed.wall_s:7.1f} s {speed.per_s:8.0f} pictures/s "
              f"{speed.cpu_s:6.1f} s CPU {speed.cpu_s_per_1000:6.2f} s CPU per 1,000")  # fmt: skip
    for name in ("img2dataset", "img2dataset raw"):
        if name in found:
            ratio = found[name].wall_s / found["command"].wall_s
            print(f"{'ratio':16}{ratio:7.2f}    whole command against {name}")
        else:
            print(f"{name} was not measured: name its program with --img2dataset")


if __name__ == "__main__":
    main()
