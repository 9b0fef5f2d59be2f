"""A cluster of two nodes on this machine, each with a loopback address and a folder of its own."""

import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil

from tests.pipelines.ray_head import BIN, free_ports

HEAD, WORKER = "127.0.0.2", "127.0.0.3"
"""Not 127.0.0.1: Ray replaces that by an address that other machines reach."""
MEMORY_BYTES = 200_000_000
"""Of each node's object store."""


class Node:
    """``ray start``, and all that it started."""

    def __init__(self, home, environment, *words):
        self.home = home
        home.mkdir()
        self._log = (home / "log").open("wb")
        self.process = subprocess.Popen(
            [BIN / "ray", "start", "--block", f"--temp-dir={home}",
             f"--object-store-memory={MEMORY_BYTES}", *words],
            stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True,
            env=environment, cwd=home,
        )  # fmt: skip

    def kill(self):
        """End it with SIGKILL: its raylet, its workers, everything at once."""
        ours = {psutil.Process(self.process.pid)} if self.process.poll() is None else set()
        for process in psutil.process_iter():  # workers are renamed, but not where they log to
            with suppress(psutil.Error):
                if str(self.home) in " ".join(process.cmdline()):
                    ours.add(process)
        for process in tuple(ours):
            with suppress(psutil.Error):
                ours.update(process.children(recursive=True))
        for process in ours:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(ours, timeout=20)
        self.process.wait(timeout=20)
        self._log.close()
        shutil.rmtree(self.home, ignore_errors=True)


class Cluster:
    """A head that asks for a token, and a second node that can be killed and replaced."""

    def __init__(self, cpus=3, worker_cpus=2):
        # Short: sockets lie below it, and their paths have at most 107 characters.
        self.home = Path(tempfile.mkdtemp(prefix="vc", dir="/tmp"))
        self.cpus, self.worker_cpus = cpus, worker_cpus
        self.token = self.home / "token"
        self.token.write_text("0123456789abcdef0123456789abcdef")
        self.token.chmod(0o600)
        self.port, self.dashboard, *self._ports = free_ports(6)
        self.address = f"http://127.0.0.1:{self.dashboard}"
        self.head = self.worker = None

    @property
    def environment(self):
        """What a client of it needs."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
        return clean | {
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def start(self):
        """Start both nodes; return this."""
        try:
            self.head = Node(
                self.home / "h", self.environment, "--head", f"--port={self.port}",
                f"--node-ip-address={HEAD}", f"--num-cpus={self.cpus}",
                "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}",
                f"--dashboard-agent-listen-port={self._ports[0]}",
                f"--ray-client-server-port={self._ports[1]}",
            )  # fmt: skip
            self.wait(lambda found: len(found) == 1)
            self.join()
        except BaseException:
            self.stop()
            raise
        return self

    def join(self):
        """Start the second node, unless it lives; return when the cluster believes in it alone."""
        if self.worker is None:
            before = set(self.nodes())
            self.worker = Node(
                self.home / "w", self.environment, f"--address={HEAD}:{self.port}",
                f"--node-ip-address={WORKER}", f"--num-cpus={self.worker_cpus}",
                f"--dashboard-agent-listen-port={self._ports[2]}",
            )  # fmt: skip
            # One that was killed is thought to live for some seconds more.
            self.wait(lambda found: len(found) == 2 and set(found) - before)

    def kill_worker(self):
        """Take the second node away, as a machine that loses its power goes."""
        self.worker.kill()
        self.worker = None

    def nodes(self):
        """List the ids of the nodes that the dashboard believes to live."""
        asked = urllib.request.Request(
            f"{self.address}/api/v0/nodes",
            headers={"Authorization": f"Bearer {self.token.read_text()}"},
        )
        try:
            with urllib.request.urlopen(asked, timeout=5) as answer:
                found = json.load(answer)["data"]["result"]["result"]
        except OSError:
            return []
        return [node["node_id"] for node in found if node["state"] == "ALIVE"]

    def wait(self, condition, within_s=90.0):
        """Wait until the nodes that live are such."""
        ends = time.monotonic() + within_s
        while not condition(found := self.nodes()):
            assert time.monotonic() < ends, f"{found} live, after {within_s} s"
            time.sleep(0.2)

    def stop(self):
        """End it; nothing of it is left."""
        for node in (self.worker, self.head):
            if node is not None:
                node.kill()
        self.head = self.worker = None
        shutil.rmtree(self.home, ignore_errors=True)
