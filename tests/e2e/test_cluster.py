"""``visage submit`` to two nodes, one of which dies in the middle, over HTTP with a token.

Both nodes are on this machine, each on a loopback address of its own, and share its disk.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pyarrow.dataset as pads
import pytest
from PIL import Image

from tests.e2e.nodes import HEAD, Cluster

pytestmark = [
    pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(400),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has 127.0.0.2 as it is"),
]  # fmt: skip
VISAGE = str(Path(sys.executable).with_name("visage"))
IMPATIENT = (
    "from pipelines import cli; from pipelines.cluster import log; log.PATIENCE_S = 2.0; "
    "exit(cli.main())"
)
"""The command, giving up a run that is out of sight a little earlier."""
ROWS = 50


@pytest.fixture(scope="module")
def cluster():
    there = Cluster(cpus=3, worker_cpus=3).start()
    yield there
    there.stop()


@pytest.fixture(scope="module")
def home(tmp_path_factory, astronaut, six_people):
    """A folder with an album, whose pictures have different fates."""
    home = tmp_path_factory.mktemp("home")
    album, rng = home / "album", np.random.default_rng(0)
    album.mkdir()
    with Image.open(astronaut) as one, Image.open(six_people) as six:
        one, six = one.convert("RGB"), six.convert("RGB")
        for n in range(24):
            one.crop((n, 0, 2 * n + 400, 430)).save(album / f"one{n:02d}.jpg")
            six.crop((n, 0, n + 1100, 880)).save(album / f"six{n:02d}.jpg")
    noise = rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(album / "nobody.png")
    (album / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    return home


def submit(cluster, *words):
    return [VISAGE, "submit", *map(str, words), "--address", cluster.address]


def start(cluster, home, *words):
    return subprocess.Popen(
        submit(cluster, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=home, env=cluster.environment,
    )  # fmt: skip


def ended(process, within_s=250):
    """Return what a submission said at its end."""
    out, complaint = process.communicate(timeout=within_s)
    assert process.returncode == 0, complaint
    return json.loads(out)


def wait(condition, process, within_s=120):
    """Wait for something to happen while a submission is followed."""
    ends = time.monotonic() + within_s
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends, f"nothing came within {within_s} s"
        time.sleep(0.05)
    return found


def works_there(cluster, name):
    """Say whether the second node has a worker of this name."""
    for process in psutil.Process(cluster.worker.process.pid).children(recursive=True):
        try:
            if name in " ".join(process.cmdline()):
                return True
        except psutil.Error:
            continue
    return False


CURATE = (
    "curate", "photos", "--source.path", "album", "--keep.min-side-px", "410",
    "--workers.lookers", "4", "--workers.cpus-per-looker", "0.5", "--workers.block-rows", "4",
)  # fmt: skip


def fates(path):
    """Return what was decided of every row."""
    rows = pads.dataset(f"{path}/decisions", partitioning="hive").to_table().to_pylist()
    return sorted((row["id"], row["status"], row["rejected_by"], row["error"]) for row in rows)


def test_a_curation_loses_a_node_and_its_follower_and_decides_the_same(cluster, home):
    cluster.join()
    first = start(cluster, home, *CURATE, "--store", "store")
    name = first.stdout.readline().split()[1]
    ingest = "store/*/ingest"
    wait(
        lambda: (
            list(home.glob(f"{ingest}/data/status=*/*.parquet"))
            and works_there(cluster, "MapBatches")
        ),
        first,
    )
    cluster.kill_worker()
    (job,) = home.glob(f"{ingest}/job.json")
    assert not json.loads(job.read_text())["finished_at"], "it was killed too late"
    first.send_signal(signal.SIGINT)
    _, complaint = first.communicate(timeout=30)
    assert first.returncode == 130, complaint
    assert f"{name} goes on" in complaint
    second = ended(start(cluster, home, *CURATE, "--store", "store", "--json"))
    assert (second["run"], second["state"], second["joined"]) == (name, "done", True)
    here = {k: v for k, v in cluster.environment.items() if not k.startswith("RAY_AUTH")}
    told = subprocess.run(
        [VISAGE, *CURATE, "--source.path", home / "album", "--store", "undisturbed", "--json"],
        capture_output=True, text=True, cwd=home, env=here, timeout=150, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    whole = json.loads(told.stdout.splitlines()[-1])
    assert len({row[0] for row in fates(whole["path"])}) == ROWS
    assert {row[1] for row in fates(whole["path"])} == {"keep", "reject", "error"}
    assert fates(second["result"]["path"]) == fates(whole["path"])
    written = pads.dataset(Path(second["result"]["path"], "ingest/data")).to_table(columns=["id"])
    assert sorted(written["id"].to_pylist()) == [row[0] for row in fates(whole["path"])]


@pytest.mark.long
def test_a_training_goes_on_when_a_lost_node_is_replaced(cluster, home):
    from tests.training.conftest import noise_features

    cluster.join()
    followed = start(
        cluster, home, "train", "lfw64", "--data.path", noise_features(home), "--out", "trained",
        "--method.width", 32, "--steps", 18, "--batch", 8, "--microbatch", 4, "--save-every", 3,
        "--log-every", 1, "--scale.workers", 2, "--scale.threads", 2, "--json",
    )  # fmt: skip
    wait(lambda: list(home.glob("trained/*/step-*/done.json")), followed)
    assert works_there(cluster, "RayTrainWorker"), "each worker needs more than half of a node"
    cluster.kill_worker()
    cluster.join()
    done = ended(followed)
    assert (done["state"], done["joined"], done["result"]["step"]) == ("done", False, 18)
    lines = Path(done["result"]["path"], "reports.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 19))


@pytest.mark.long
def test_a_deployment_stays_when_its_run_has_ended_and_is_done_again_when_asked(cluster, home):
    from tests.e2e.served import export, wanted
    from tests.pipelines.ray_head import free_ports

    cluster.join()
    (port,) = free_ports(1)
    words = (
        "deploy", "--model", f"file:{export(home / 'export', seed=0)}", "--http.port", port,
        "--images.threads", 1, "--json",
    )  # fmt: skip
    served = ended(start(cluster, home, *words))
    assert served["result"]["url"] == f"http://127.0.0.1:{port}"
    asked = urllib.request.Request(
        f"{served['result']['url']}/v1/images/generations", json.dumps(wanted()).encode(),
        {"content-type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(asked, timeout=60) as answer:
        assert json.load(answer)["data"]
    again = ended(start(cluster, home, *words))
    assert (again["run"], again["state"]) == (f"{served['run']}-2", "done")
    stopped = subprocess.run(
        [VISAGE, "deploy", "--stop", "--address", f"{HEAD}:{cluster.port}"],
        capture_output=True, text=True, env=cluster.environment, timeout=60, check=False,
    )  # fmt: skip
    assert "nothing is deployed" in stopped.stdout, stopped.stderr


@pytest.mark.long
def test_a_whole_loop_is_carried_out(cluster, home, photographs):
    import tarfile

    cluster.join()
    people: dict[str, list] = {}
    with tarfile.open(photographs / "lfw-dev.tar") as tar:
        for member in sorted((m for m in tar if m.isfile()), key=lambda m: m.name):
            people.setdefault(Path(member.name).parent.name, []).append(member)
        several = [who for who, found in people.items() if len(found) >= 3][:8]
        for member in (m for who in several for m in people[who][:3]):
            target = home / "people" / Path(member.name).parent.name
            target.mkdir(parents=True, exist_ok=True)
            (target / Path(member.name).name).write_bytes(tar.extractfile(member).read())
    done = ended(
        start(
            cluster, home, "loop", "tiny", "--curate.source.path", "people", "--store", "loops",
            "--curate.workers.lookers", 1, "--train.data.heldout-share", 0.5, "--train.steps", 4,
            "--train.save-every", 4, "--train.scale.threads", 1, "--evaluate.steps", 2,
            "--evaluate.seeds", 1, "--json",
        )
    )  # fmt: skip
    assert done["state"] == "done"
    assert list(done["result"]["steps"]) == ["curate", "prepare", "train", "evaluate", "release"]
    assert done["result"]["steps"]["release"]["result"]["model"] == "tiny/1"
    assert Path(done["result"]["path"], "report.html").exists()


@pytest.mark.parametrize(
    ("address", "environment", "told"),
    [
        ("http://127.0.0.4:1", {}, "nobody answers there. Is it running?"),
        ("", {"RAY_AUTH_TOKEN": "f" * 32, "RAY_AUTH_TOKEN_PATH": ""},
         "it does not accept the token; it may have expired"),
        ("", {"RAY_AUTH_TOKEN_PATH": "/no/such/token"}, "RAY_AUTH_TOKEN_PATH"),
    ],
)  # fmt: skip
def test_the_wrong_door_or_key_is_one_sentence_with_the_cure(
    cluster, home, address, environment, told
):
    refused = subprocess.run(
        [VISAGE, "submit", "evaluate", "x", "--address", address or cluster.address],
        capture_output=True, text=True, cwd=home, env=cluster.environment | environment,
        timeout=30, check=False,
    )  # fmt: skip
    assert refused.returncode == 2, refused.stderr
    assert told in refused.stderr
    assert refused.stderr.count("\n") == 1, refused.stderr


def test_a_head_that_dies_in_the_middle_ends_the_stream_and_says_how_to_look_again(cluster, home):
    words = submit(cluster, *CURATE, "--store", "late")[1:]
    followed = subprocess.Popen(
        [sys.executable, "-c", IMPATIENT, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=home, env=cluster.environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    name = followed.stdout.readline().split()[1]
    while "has started" not in followed.stdout.readline():
        assert followed.poll() is None, followed.communicate()
    cluster.stop()
    _, complaint = followed.communicate(timeout=60)
    assert followed.returncode == 5, complaint
    assert f"Lost sight of {name}: " in complaint
    assert f"visage runs {name} --address {cluster.address} --follow" in complaint
    assert complaint.count("\n") == 1, complaint
