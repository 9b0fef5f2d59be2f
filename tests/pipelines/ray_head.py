"""A small Ray cluster on loopback for tests: a head with a token and a dashboard."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

BIN = Path(sys.executable).parent


def free_ports(count):
    """Return ports that nobody listens on now."""
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


class Head:
    """``ray start --head`` with token authentication; nothing of it is left after ``stop``."""

    def __init__(self, cpus=3):
        # Short: sockets lie below it, and their paths have at most 107 characters.
        self.home = Path(tempfile.mkdtemp(prefix="vr", dir="/tmp"))
        self.cpus, self.process = cpus, None
        self.token = self.home / "token"
        self.token.write_text("0123456789abcdef0123456789abcdef")
        self.token.chmod(0o600)
        self.port, self.dashboard, agent = free_ports(3)
        self.address = f"http://127.0.0.1:{self.dashboard}"
        self._agent = agent

    @property
    def environment(self):
        """What a client of it needs."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
        return clean | {
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "2",
        }  # fmt: skip

    def start(self, within_s=150.0):
        """Start it and wait until its dashboard knows of the node."""
        self.process = subprocess.Popen(
            [str(BIN / "ray"), "start", "--head", "--block", f"--port={self.port}",
             "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
             f"--dashboard-port={self.dashboard}", f"--dashboard-agent-listen-port={self._agent}",
             f"--num-cpus={self.cpus}", "--object-store-memory=200000000",
             f"--temp-dir={self.home}/ray"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env=self.environment, cwd=self.home,
        )  # fmt: skip
        asked = urllib.request.Request(
            f"{self.address}/api/v0/nodes",
            headers={"Authorization": f"Bearer {self.token.read_text()}"},
        )
        ends = time.monotonic() + within_s
        while time.monotonic() < ends and self.process.poll() is None:
            try:
                with urllib.request.urlopen(asked, timeout=5) as answer:
                    if b"ALIVE" in answer.read():
                        return self
            except OSError:
                pass
            time.sleep(0.3)
        self.stop()
        raise TimeoutError(f"no Ray at {self.address} within {within_s} s")

    def stop(self):
        """End it with all its processes."""
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)
            for path in Path("/proc").glob("[0-9]*/cmdline"):  # what outlived it names its folder
                with suppress(OSError):  # it may have ended meanwhile
                    if str(self.home).encode() in path.read_bytes():
                        os.kill(int(path.parent.name), signal.SIGKILL)
            self.process.wait(timeout=20)
            self.process = None
        shutil.rmtree(self.home, ignore_errors=True)
