"""Ray Train with real workers: the losses of one plain process, also through a crash."""

import multiprocessing
import os
import shutil
import signal
from dataclasses import replace

import psutil
import pytest

from infra.errors import BadValue, BadWeights
from tests.training.conftest import noise_features
from tests.training.many import train
from training.checkpoints import finished
from training.loop import Wish, read_reports
from training.recipes import lfw64
from training.settings import DataSettings, DropSettings, MethodSettings, OptimiserSettings, Scale

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def recipe(home):
    return replace(
        lfw64(),
        data=DataSettings(path=str(noise_features(home)), heldout_share=0.0),
        method=MethodSettings(kind="base", width=32, identity_norm="standard"),
        drop=DropSettings(identity=0.1, text=0.0, both=0.0),
        optimiser=OptimiserSettings(learning_rate=2e-3),
        scale=Scale(workers=2, zero_stage=2, threads=1),
        steps=12, batch=8, microbatch=4, save_every=2, log_every=1, keep_checkpoints=20,
    )  # fmt: skip


@pytest.fixture
def workers(local_ray):
    """Train on workers of the session's Ray; imported late: so heavy."""
    from training.worker import train_on_workers

    def start(recipe, out, **how):
        out.mkdir(exist_ok=True)
        return train_on_workers(recipe, out, local_ray, **how)

    return start


def losses(reports):
    return [report.losses["loss"] for report in reports]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_worker_that_is_killed_costs_no_more_than_the_steps_since_its_checkpoint(
    recipe, workers, home, tmp_path
):
    alone = replace(recipe, scale=Scale())
    whole = train(alone, home / "whole")["losses"]
    told, killed = [], []

    def kill_once(report):
        told.append(report)
        if report.step >= 3 and not killed:
            found = [p for p in psutil.Process().children(recursive=True)
                     if "RayTrainWorker" in " ".join(p.cmdline())]  # fmt: skip
            assert len(found) == 2
            killed.append(found[1].pid)
            os.kill(found[1].pid, signal.SIGKILL)

    out = tmp_path / "run"
    assert workers(replace(recipe, steps=200, save_every=2), out, tell=kill_once,
                   asked=lambda: bool(killed) and len(told) >= 12) >= 12  # fmt: skip
    assert killed
    kept = read_reports(out / "reports.jsonl")
    steps = [report.step for report in kept]
    assert steps == list(range(1, len(steps) + 1)), "a step was lost or told twice"
    assert losses(kept)[:12] == pytest.approx(whole, abs=2e-5)
    assert sorted({report.step for report in told}) == [report.step for report in told]
    left = {path.name for path in out.iterdir() if not path.name.startswith("step-")}
    assert left == {"reports.jsonl"}, "Ray's own state was left behind"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_end_that_is_asked_for_comes_after_a_checkpoint_and_is_gone_on_from(
    recipe, workers, tmp_path
):
    told = []
    endless = replace(recipe, steps=1000, save_every=1000)
    step = workers(endless, tmp_path, tell=told.append, asked=lambda: len(told) >= 2)
    assert 2 <= step < 1000
    assert [folder.name for folder in finished(tmp_path)] == [f"step-{step:07d}"]
    with pytest.raises(BadWeights, match="another recipe"):
        workers(replace(endless, method=replace(recipe.method, width=64)), tmp_path)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_before_a_node_is_taken_away_a_checkpoint_is_written_that_is_gone_on_from(recipe, tmp_path):
    endless = replace(recipe, steps=1000, save_every=1000)
    runs = [(replace(endless, scale=replace(recipe.scale, zero_stage=stage)), tmp_path / f"{stage}")
            for stage in (0, 2)]  # fmt: skip
    # A Ray of its own: a node that is taken away does not come back.
    driver = multiprocessing.get_context("spawn").Process(target=preempted, args=(runs,))
    driver.start()
    driver.join(240)
    driver.kill()
    assert driver.exitcode == 0
    for _, out in runs:
        saved, ended = finished(out)
        step = int(saved.name.removeprefix("step-"))
        alone = replace(recipe, steps=step + 3, save_every=1000, scale=Scale())
        whole = train(alone, tmp_path / f"{out.name}-whole")["losses"]
        told = losses(read_reports(out / "reports.jsonl"))
        assert told[: step + 3] == pytest.approx(whole[: len(told)], abs=1e-4)
        shutil.rmtree(ended)
        assert train(alone, out)["losses"] == pytest.approx(whole[step:], abs=1e-4)


def preempted(runs):
    """Train each run on a node that is to be taken away once a step was told; end after a save."""
    os.environ["RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"] = "0.2"
    import ray
    from ray.cluster_utils import Cluster
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    from training.worker import train_on_workers

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    ray.init(cluster.address, log_to_driver=False)
    try:
        for recipe, out in runs:
            out.mkdir()
            node = ray.NodeID.from_hex(cluster.add_node(num_cpus=2).node_id)

            def drain(report, node=node):
                if report.step == 1:
                    why = DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
                    ray._raylet.GcsClient(cluster.address).drain_node(node.hex(), why, "sold", 0)

            train_on_workers(recipe, out, 2, drain, asked=lambda out=out: bool(finished(out)))
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_worker_that_sees_the_end_asked_for_still_answers_what_all_are_asked(
    recipe, tmp_path, monkeypatch
):
    from training.worker import _Task, _Wishes

    asked = []
    monkeypatch.setattr("ray.train.get_preemption_info", lambda: asked.append("a barrier"))
    wishes = _Wishes(_Task(replace(recipe, log_every=2), tmp_path, "", tmp_path, 1))
    assert [wishes(step) for step in (1, 2, 3)] == [Wish.GO_ON] * 3
    (tmp_path / "stop").touch()
    assert [wishes(step) for step in (4, 5)] == [Wish.END] * 2
    assert len(asked) == 2, "the other workers would wait for ever"


def test_more_workers_than_there_are_cpus_or_gpus_are_refused_before_anything_is_queued(
    recipe, workers, tmp_path
):
    many = replace(recipe, batch=64, scale=replace(recipe.scale, workers=64))
    with pytest.raises(BadValue, match="each needs 1 CPUs of its own, and there are 2"):
        workers(many, tmp_path / "cpus")
    with pytest.raises(BadValue, match="each needs a GPU of its own, and there are 0"):
        workers(replace(recipe, scale=replace(recipe.scale, use_gpu=True)), tmp_path / "gpus")


def test_a_worker_that_does_not_see_the_folder_says_so(recipe, tmp_path):
    from training.worker import _check_shared, _Task

    task = _Task(recipe, tmp_path, "what the driver wrote", tmp_path, 1)
    with pytest.raises(BadValue, match="all machines share"):
        _check_shared(task)
    (tmp_path / "token").write_text("what the driver wrote")
    _check_shared(task)
