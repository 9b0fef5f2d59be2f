"""MLflow for tests: a fresh database in no time, and a real server that can be stopped."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from functools import cache
from pathlib import Path


def put_database(folder):
    """Put an empty database into a store; MLflow takes seconds to make one."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_template(), Path(folder) / "mlflow.db")


@cache
def _template():
    from infra.mlflow_run import connect

    path = Path(tempfile.mkdtemp()) / "mlflow.db"
    connect(f"sqlite:///{path}").search_experiments()
    return path


class Server:
    """``mlflow server`` over an SQLite file in a folder; always on the same port."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.folder, self.process = folder, None

    def start(self, within_s=90.0):
        """Start it and wait until it answers."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
             "--port", str(self.port), "--workers", "1",
             "--backend-store-uri", f"sqlite:///{self.folder}/server.db",
             "--artifacts-destination", f"{self.folder}/artifacts"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        ends = time.monotonic() + within_s
        while time.monotonic() < ends:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return self
            except OSError:
                time.sleep(0.2)
        self.stop()
        raise TimeoutError(f"no MLflow server at {self.uri} within {within_s} s")

    def stop(self):
        """Stop it with all its workers."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=30)
            self.process = None
