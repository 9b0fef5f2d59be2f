"""Video jobs as Ray Serve draws them, by a worker that is killed in the midst of one."""

import os
import signal
import socket
import time
from dataclasses import replace

import psutil
import pytest

from pipelines.deploy import plan, up
from pipelines.endpoints import deployed
from serving.client import Visage
from serving.client_videos import Videos
from serving.jobs.settings import VideoSettings
from serving.recipes import FaceSettings, HttpSettings, local

pytestmark = [pytest.mark.ray, pytest.mark.long]


@pytest.fixture(scope="module")
def served(local_ray, tmp_path_factory):  # noqa: ARG001 - Ray runs
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    recipe = replace(
        local(), store=str(tmp_path_factory.mktemp("served")), faces=FaceSettings(at_once=1),
        http=HttpSettings(port=port, drain_s=5),
        videos=VideoSettings(
            model="random:tiny-animatediff", max_steps=1000, checkpoint_s=0.5, lease_s=3.0
        ),
    )  # fmt: skip
    up(plan(recipe), timeout_s=240)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        deployed.shutdown()


def worker():
    """Return the process id of the worker; None: there is none now."""
    for process in psutil.process_iter(["pid", "cmdline"]):
        if "ServeReplica:visage:VideoWorker" in " ".join(process.info["cmdline"] or ()):
            return process.info["pid"]
    return None


def test_a_video_is_finished_though_its_worker_is_killed(served):
    with Visage(served) as visage:
        videos = Videos(visage)
        asked = videos.ask("a dance", frames=4, size="32x32", steps=200, seed=1)
        ends = time.monotonic() + 120
        while (before := videos.get(asked["id"])["progress"]) < 5:
            assert time.monotonic() < ends, "nobody draws it"
            time.sleep(0.1)
        os.kill(worker(), signal.SIGKILL)
        assert videos.wait(asked["id"], 240)[4:8] == b"ftyp"
        done = videos.get(asked["id"])
        assert (done["status"], done["progress"], done["error"]) == ("completed", 100, None)
        assert before < 100  # it was in the midst of it
        with visage._http.stream("GET", f"/v1/videos/{asked['id']}/events") as told:
            kinds = [line for line in told.iter_lines() if line.startswith("event:")]
        assert kinds.count("event: video.completed") == 1
