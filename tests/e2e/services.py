"""Postgres, an S3 server and MLflow over both, on loopback: what a team's installation has."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

BIN = Path(sys.executable).parent
BUCKETS = ("visage", "mlflow")
KEYS = {"AWS_ACCESS_KEY_ID": "visage", "AWS_SECRET_ACCESS_KEY": "loopback-only"}


@dataclass(frozen=True)
class Services:
    """Where the three are."""

    mlflow: str
    s3: str

    @property
    def environment(self):
        """What a client of them has in its environment, and nothing of the developer's own."""
        ours = ("RAY_", "MLFLOW_", "AWS_", "VISAGE_")
        return {k: v for k, v in os.environ.items() if not k.startswith(ours)} | KEYS | {
            "MLFLOW_TRACKING_URI": self.mlflow,
            "AWS_ENDPOINT_URL": self.s3,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "OMP_NUM_THREADS": "2",
        }  # fmt: skip


@contextmanager
def services():
    """Start the three, one after the other; nothing of them is left afterwards."""
    with postgres() as database, s3() as store, mlflow(database, store) as tracking:
        yield Services(tracking, store)


@contextmanager
def postgres():
    """Start a fresh PostgreSQL; yield the address of an empty database."""
    with mortal_postgres() as (url, started), started(signal.SIGINT):
        yield url


@contextmanager
def mortal_postgres():
    """Make a fresh PostgreSQL; yield its address, and what starts it until a signal."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    if not programs:
        pytest.skip("no PostgreSQL below /usr/lib/postgresql; Debian has it as postgresql")
    # It refuses to run as root.
    become = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with folder("postgres") as home:
        if become:
            shutil.chown(home, "postgres")
        data, port = home / "data", free_port()
        (home / "password").write_text("hunter2\n")
        (home / "password").chmod(0o644)
        command = [*become, programs[-1] / "initdb", "--auth=scram-sha-256", "--username=mlflow",
                   f"--pwfile={home}/password", "--no-sync", data]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120, cwd="/")
        command = [*become, programs[-1] / "postgres", "-D", data, "-p", str(port), "-k", home,
                   "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]  # fmt: skip
        url = f"postgresql+psycopg2://mlflow:hunter2@127.0.0.1:{port}/postgres"

        ready = [programs[-1] / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]

        @contextmanager
        def started(ends_with):
            # One that was killed: its children see that and end. Its locks stay, and where nobody
            # reaps, its process seems to live on.
            ends = time.monotonic() + 60
            while any(one.info["cwd"] == str(data) for one in psutil.process_iter(["cwd"])):
                assert time.monotonic() < ends, "PostgreSQL's processes do not end"
                time.sleep(0.05)
            for lock in (data / "postmaster.pid", home / f".s.PGSQL.{port}.lock"):
                lock.unlink(missing_ok=True)
            with running(command, home / "log", port, ends_with=ends_with):
                while subprocess.run(ready, check=False, timeout=30).returncode:
                    assert time.monotonic() < ends, "PostgreSQL does not become ready"
                    time.sleep(0.05)
                yield

        yield url, started


@contextmanager
def s3():
    """Start moto's S3 with empty buckets; yield its address."""
    port = free_port()
    command = [BIN / "moto_server", "-H", "127.0.0.1", "-p", str(port)]
    with folder("moto") as home, running(command, home / "log", port):
        address = f"http://127.0.0.1:{port}"
        for bucket in BUCKETS:
            asked = urllib.request.Request(f"{address}/{bucket}", method="PUT")
            urllib.request.urlopen(asked, timeout=10).close()
        yield address


@contextmanager
def mlflow(database, store):
    """Start MLflow's server over both, as infra/compose does; yield its address."""
    with folder("mlflow") as home:
        port = free_port()
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
                   "--port", str(port), "--workers", "1",
                   "--artifacts-destination", "s3://mlflow/artifacts",
                   "--expose-prometheus", home / "prometheus"]  # fmt: skip
        environment = KEYS | {
            "MLFLOW_BACKEND_STORE_URI": database,  # not an argument, which everybody can read
            "MLFLOW_S3_ENDPOINT_URL": store,
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
        }
        address = f"http://127.0.0.1:{port}"
        with running(command, home / "log", port, within_s=150, **environment):
            urllib.request.urlopen(f"{address}/health", timeout=20).close()
            yield address


@contextmanager
def folder(name):
    """Make a folder with a short path, which other users can be let into."""
    with tempfile.TemporaryDirectory(prefix=name, dir="/tmp", ignore_cleanup_errors=True) as home:
        yield Path(home)


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


@contextmanager
def running(command, log, port, *, within_s=60, ends_with=signal.SIGTERM, **environment):
    """Run a server from when it takes connections until the block ends."""
    with log.open("w") as out:
        process = subprocess.Popen(
            list(map(str, command)), stdout=out, stderr=out, start_new_session=True, cwd="/",
            env={k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | environment,
        )  # fmt: skip
    try:
        ends = time.monotonic() + within_s
        while time.monotonic() < ends:
            assert process.poll() is None, f"{command[0]} ended: {log.read_text()[-2000:]}"
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
                break
            time.sleep(0.1)
        else:
            raise TimeoutError(f"{command[0]} takes no connection: {log.read_text()[-2000:]}")
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, ends_with)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
