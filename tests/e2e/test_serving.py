"""Ray Serve as it is: over HTTP on loopback, with replicas that die, change, or have too much."""

import base64
import io
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from openai import OpenAI
from PIL import Image

from infra.errors import BadInput, BadWeights
from pipelines.deploy import plan
from pipelines.endpoints import deployed
from pipelines.endpoints.rollout import attempt
from serving.client import Visage
from tests.e2e.flood import flood
from tests.e2e.served import Crowd, serving, wanted
from tests.serving.doors import he, she

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def served(local_ray, tmp_path_factory):  # noqa: ARG001 - Ray runs
    with serving(tmp_path_factory.mktemp("served")) as found:
        yield found


def picture(answer):
    """Return the first picture of an answer as an array."""
    assert answer.status_code == 200, answer.text
    blob = base64.b64decode(answer.json()["data"][0]["b64_json"])
    return np.asarray(Image.open(io.BytesIO(blob))).astype(int)


def replica(name):
    """Return the process id of a deployment's replica."""
    return next(p["pid"] for p in replicas(f"ray::ServeReplica:visage:{name}"))


def replicas(told="ray::ServeReplica"):
    """Return what is known of the processes of that name; ones that end meanwhile are none."""
    wanted = ("pid", "cmdline", "memory_info")
    found = [process.info for process in psutil.process_iter(wanted)]
    return [about for about in found if told in " ".join(about["cmdline"] or ())]


def test_openais_client_draws_a_person(served):
    client = OpenAI(base_url=f"{served.url}/v1", api_key=served.keys["all"])
    photo = base64.b64encode(she()).decode()
    answer = client.images.generate(
        prompt="a face", size="32x32", extra_body={"identity": [photo], "seed": 7, "steps": 3}
    )
    assert Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json))).size == (32, 32)
    assert answer.visage["model"] == f"{served.name}/1"


def test_faces_are_told_apart_without_a_hop(served):
    with Visage(served.url, served.keys["faces"]) as visage:
        assert visage.verify(she(), she())["same_person"]
        assert not visage.verify(she(), he())["same_person"]


def test_a_request_is_traced_from_the_proxy_to_the_generator(served):
    import ray

    assert served.draw().status_code == 200
    logs = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
    missing = spans = ""
    for _ in range(100):  # a span is written when its part has ended, which is after the answer
        spans = "".join(file.read_text() for file in logs.glob("serve/spans/*"))
        parts = ("POST", "Gateway", "ImageGenerator", "trace_id")
        if not (missing := ", ".join(part for part in parts if part not in spans)):
            break
        time.sleep(0.1)
    assert not missing, spans


def test_previews_come_as_events(served):
    with served.client() as client:
        body = wanted(steps=40, stream=True, partial_images=2)
        with client.stream("POST", "/v1/images/generations", json=body) as answer:
            names = [line for line in answer.iter_lines() if line.startswith("event:")]
    partial, completed = "image_generation.partial_image", "image_generation.completed"
    assert names == [f"event: {name}" for name in (partial, partial, completed)]


def test_keys_are_asked_for(served):
    with served.client(key="") as client:
        refused = client.post("/v1/images/generations", json=wanted())
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "missing_key")
        assert refused.headers.get_list("x-request-id") == [refused.json()["request_id"]]
    assert served.draw(served.client("faces")).json()["error"]["code"] == "out_of_scope"
    assert [served.draw(served.client("few")).status_code for _ in range(2)] == [200, 429]


def test_a_refusal_of_the_model_arrives_as_it_was_said(served):
    refused = served.draw(size="36x32")
    assert refused.status_code == 400
    assert refused.json()["error"]["details"] == {"field": "size"}


def test_clients_at_once_get_their_own_pictures(served):
    seeds = range(8)
    with ThreadPoolExecutor(8) as pool:
        together = [picture(a) for a in pool.map(lambda seed: served.draw(seed=seed), seeds)]
    alone = [picture(served.draw(seed=seed)) for seed in seeds]
    for seed in seeds:
        apart = [np.abs(together[seed] - other).max() for other in alone]
        assert apart[seed] <= 1, seed
        assert min(other for i, other in enumerate(apart) if i != seed) > 1, seed


def test_a_client_that_leaves_makes_room(served):
    with served.client() as client, pytest.raises(Exception, match="timed out"):
        client.post("/v1/images/generations", json=wanted(steps=1000, n=4), timeout=0.5)
    began = time.monotonic()
    assert served.draw().status_code == 200
    assert time.monotonic() - began < 5


@pytest.mark.slow
def test_a_killed_replica_costs_at_most_a_retry_and_mlflow_may_be_down(served):
    store = served.home / "store" / "mlflow.db"
    hidden = shutil.move(store, store.with_suffix(".away"))
    try:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(served.draw, steps=400)
            time.sleep(0.5)
            os.kill(replica("ImageGenerator"), signal.SIGKILL)
            answer = asked.result(timeout=120)
        assert answer.status_code == 200 or answer.headers["retry-after"], answer.text
        served.wait_ready()
        # It came back without the registry: the files are here, and their hashes known.
        assert served.draw().status_code == 200
        with pytest.raises(BadInput, match="cannot be used"):
            plan(served.recipe)
    finally:
        shutil.move(hidden, store)


def test_a_new_version_takes_over_without_a_break(served):
    pid = replica("ImageGenerator")
    with Crowd(served, 3) as crowd:
        crowd.wait(6)
        served.release(1)
        new = served.update()
        crowd.wait(len(crowd.statuses) + 9)
    assert crowd.errors == []
    assert set(crowd.statuses) == {200}
    assert sorted(set(crowd.models)) == [f"{served.name}/1", new]
    assert crowd.models[-1] == new
    assert replica("ImageGenerator") == pid


def test_altered_weights_are_refused_and_what_is_served_stays(served):
    now = deployed.state()
    version = served.release(5, champion=False)
    files = served.home.glob("store/mlartifacts/**/*.safetensors")
    newest = max(files, key=lambda file: file.stat().st_mtime)
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    with pytest.raises(BadWeights):
        plan(replace(served.recipe, model=version.reference))
    # Altered after somebody had looked: the replicas look again.
    with pytest.raises(deployed.NotDeployed, match="goes on being served"):
        deployed.apply(deployed.configuration(now.recipe, version), 60)
    assert served.draw().json()["visage"]["model"] == now.version.reference
    deployed.apply(deployed.configuration(now.recipe, now.version), 60)


def trial(served, **changes):
    asked = {"percent": 50, "least": 30, "within_s": 60, "timeout_s": 60}
    with Crowd(served, 4) as crowd:
        verdict = attempt(plan(served.recipe), **{**asked, **changes})
        crowd.wait(len(crowd.statuses) + 8)
    return verdict, crowd


@pytest.mark.slow
def test_a_good_version_is_promoted_and_a_bad_one_is_not(served):
    good = served.release(2)
    verdict, crowd = trial(served)
    assert verdict.promoted, verdict
    assert set(crowd.statuses) == {200}
    assert crowd.models[-1] == good.reference
    assert deployed.state().trial == {}
    served.release(3, text=False)  # it refuses every prompt
    verdict, crowd = trial(served)
    assert not verdict.promoted
    assert "refused" in verdict.reason
    assert set(crowd.errors) == {"prompt_not_supported"}
    assert served.draw().json()["visage"]["model"] == good.reference
    served.registry.move(served.name, "champion", good.version)


def test_too_many_requests_are_refused_and_nothing_is_stuck_afterwards(served):
    with Crowd(served, 40, steps=20) as crowd:
        time.sleep(4)
    assert set(crowd.statuses) == {200, 429}
    assert set(crowd.errors) == {"overloaded"}
    began = time.monotonic()
    assert served.draw().status_code == 200
    assert time.monotonic() - began < 3


@pytest.mark.slow
def test_a_minute_of_ten_times_too_much_leaves_no_trace(served):
    with Crowd(served, served.recipe.images.batch, steps=40) as full:
        full.wait(10**9, within_s=5)
    flood(served, 2 * len(full.seconds), 3, steps=40)  # ten times as many a second
    before = resident_bytes()
    seen = flood(served, 2 * len(full.seconds), 60, steps=40)
    assert set(seen.statuses) == {200, 429}, seen.errors
    assert set(seen.errors) == {"overloaded"}
    assert resident_bytes() - before < 64 * 2**20
    began = time.monotonic()
    assert served.draw().status_code == 200
    assert time.monotonic() - began < 5


def resident_bytes():
    """Return what all replicas hold in memory."""
    return sum(about["memory_info"].rss for about in replicas())
