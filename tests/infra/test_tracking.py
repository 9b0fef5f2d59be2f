import json
import subprocess
import sys
import time

import pytest

from infra import tracking
from infra.errors import BadValue
from infra.released import files_of, manifest
from infra.storage import open_folder
from infra.tracking import Tracker, send_waiting, spool_file, tracking_uri
from tests.infra.full_disk import files_of_at_most
from tests.infra.mlflow_server import Server, put_database

DEAD = "http://127.0.0.1:9"


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    put_database(tmp_path / "store")
    return open_folder(str(tmp_path / "store"))


@pytest.fixture
def unreachable(store, monkeypatch):  # noqa: ARG001 - which says that no server is named
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def client(store):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri(store))


def end(tracker, **more):
    return tracker.finish(
        params={"keep.min_side_px": 200},
        metrics={"rows": 3.0},
        texts={"report.html": "<html>"},
        tags={"visage.code": "c"},
        **more,
    )


def until(true, within_s=60.0):
    ends = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.05)


def history(client, run_id, key):
    return [(point.step, point.value) for point in client.get_metric_history(run_id, key)]


def test_a_run_leaves_params_metrics_and_the_report(store, client, tmp_path):
    (tmp_path / "drawn.png").write_bytes(b"png")
    files = {"contact.png": tmp_path / "drawn.png"}
    run_id = end(Tracker(store, "curate", "lfw-1"), files=files)
    run = client.get_run(run_id)
    assert run.data.params == {"keep.min_side_px": "200"}
    assert run.data.metrics == {"rows": 3.0}
    assert run.info.status == "FINISHED"
    assert [a.path for a in client.list_artifacts(run_id)] == ["contact.png", "report.html"]
    assert run.info.artifact_uri.startswith(store.path)


def test_a_run_goes_on_under_its_old_id(store):
    first = end(Tracker(store, "curate", "lfw-1"))
    assert end(Tracker(store, "curate", "lfw-1")) == first
    assert end(Tracker(store, "curate", "lfw-2")) != first


@pytest.mark.usefixtures("unreachable")
def test_an_unreachable_server_is_a_sentence_and_not_a_crash(store):
    tracker = Tracker(store, "curate", "lfw-1")
    assert end(tracker) == ""
    assert tracker.problem.startswith(f"MLflow at {DEAD} was not written:")
    assert "records" not in tracker.problem, "none were to wait on a disk"


@pytest.mark.usefixtures("unreachable")
def test_a_password_of_the_tracking_address_is_shown_nowhere(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hunter2@127.0.0.1:9")
    spool = spool_file(store, "curate", "lfw-1")
    tracker = Tracker(store, "curate", "lfw-1", spool=spool)
    assert end(tracker) == ""
    assert "hunter2" not in tracker.uri + tracker.problem + tracker.url + spool.read_text()


def test_a_run_is_seen_while_it_runs(store, client, monkeypatch):
    monkeypatch.setattr(tracking, "SEND_EVERY_S", 0.1)
    tracker = Tracker(store, "train", "r", system_metrics=True)
    tracker.begin(
        {"steps": 9}, {"visage.code": "c"}, {"name": "lfw", "digest": "c0ffee", "source": "f"}
    )
    tracker.log(1, {"loss": 0.5})
    until(lambda: tracker.run_id and not len(tracker._spool))
    run = client.get_run(tracker.run_id)
    assert (run.info.status, run.data.params) == ("RUNNING", {"steps": "9"})
    given = run.inputs.dataset_inputs[0]
    assert (given.dataset.name, given.dataset.digest) == ("lfw", "c0ffee")
    assert {tag.key: tag.value for tag in given.tags} == {"mlflow.data.context": "training"}
    assert tracker.url == f"mlflow ui --backend-store-uri {tracking_uri(store)}"
    tracker.finish({}, {}, {}, {})
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["system/cpu_utilization_percentage"] >= 0


def test_steps_that_were_logged_before_a_crash_are_not_logged_twice(store, client):
    first = Tracker(store, "train", "r")
    for step in (1, 2, 3):
        first.log(step, {"loss": step / 10})
    first.fail(RuntimeError("lost power\nat night"))
    run = client.get_run(first.run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["visage.error"] == "RuntimeError: lost power"
    again = Tracker(store, "train", "r")  # goes on from the checkpoint of step 2
    for step in (3, 4):
        again.log(step, {"loss": step / 10, "val": 1.0})
    run_id = again.finish({}, {}, {}, {}, series=[(4, {"loss": 0.4}), (5, {"loss": 0.5})])
    assert history(client, run_id, "loss") == [(n, n / 10) for n in (1, 2, 3, 4, 5)]
    assert history(client, run_id, "val") == [(3, 1.0), (4, 1.0)]
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_run_that_is_told_to_stop_is_killed_and_not_failed(store, client):
    with pytest.raises(KeyboardInterrupt), Tracker(store, "train", "r") as tracker:
        raise KeyboardInterrupt
    assert client.get_run(tracker.run_id).info.status == "KILLED"


def test_what_mlflow_refuses_holds_nothing_else_up(store, client):
    tracker = Tracker(store, "train", "r")
    tracker.begin({"a name; with a semicolon": 1}, {})
    tracker.log(1, {"loss": 0.5})
    assert tracker.finish({}, {}, {}, {}) == ""
    assert "refused" in tracker.problem
    assert history(client, tracker.run_id, "loss") == [(1, 0.5)]


@pytest.fixture
def export(tmp_path):
    (tmp_path / "export").mkdir()
    (tmp_path / "export/a.safetensors").write_bytes(b"weights")
    return tmp_path / "export"


def models(client, run_id):
    where = client.get_run(run_id).info.experiment_id
    return client.search_logged_models([where], f"source_run_id = '{run_id}'")


def test_an_export_becomes_a_model_of_the_run_with_its_numbers(store, client, export):
    tracker = Tracker(store, "train", "r")
    tracker.model("step-30", export, {"auc": 0.9}, 30)
    (model,) = models(client, tracker.finish({}, {}, {}, {}))
    assert (model.name, str(model.status)) == ("step-30", "READY")
    assert {m.key: (m.value, m.step) for m in model.metrics} == {"auc": (0.9, 30)}
    assert files_of(model.tags) == manifest(export)
    assert (open_folder(model.artifact_location) / "a.safetensors").exists()


def test_the_same_export_is_kept_once_and_another_one_beside_it(store, client, export):
    for content, kept in ((b"weights", 1), (b"weights", 1), (b"others", 2)):
        (export / "a.safetensors").write_bytes(content)
        tracker = Tracker(store, "train", "r")
        tracker.model("step-30", export, {}, 30)
        run_id = tracker.finish({}, {}, {}, {})
        assert len(models(client, run_id)) == kept


def test_a_model_whose_upload_fails_is_told_holds_nothing_up_and_is_sent_again(
    store, client, export, monkeypatch
):
    def refuse(*_, **__):
        raise PermissionError("no room at s3://ann:hunter2@models\nmore")

    with monkeypatch.context() as patched:
        patched.setattr("mlflow.tracking.MlflowClient.log_model_artifacts", refuse)
        first = Tracker(store, "train", "r")
        first.model("step-30", export, {}, 30)
        first.log(31, {"loss": 0.5})
        assert first.finish({}, {}, {}, {}) == ""
    assert "the model step-30 was not kept" in first.problem
    assert "no room at s3://models" in first.problem
    assert history(client, first.run_id, "loss") == [(31, 0.5)]
    assert client.get_run(first.run_id).info.status == "FINISHED"
    again = Tracker(store, "train", "r")
    again.model("step-30", export, {}, 30)
    run_id = again.finish({}, {}, {}, {})
    assert sorted(str(model.status) for model in models(client, run_id)) == ["FAILED", "READY"]


def test_a_model_waits_for_mlflow_and_arrives_when_it_is_back(store, client, export, monkeypatch):
    spool = spool_file(store, "train", "r")
    with monkeypatch.context() as patched:
        patched.setattr("infra.mlflow_run.MlflowRun.open", lambda _: 1 / 0)
        tracker = Tracker(store, "train", "r", spool=spool)
        tracker.model("step-30", export, {"auc": 0.9}, 30)
        tracker.model("step-20", export.parent / "pruned", {}, 20)
        assert tracker.fail(KeyboardInterrupt()) == ""
    assert [(sent.run, sent.problem) for sent in send_waiting(store)] == [("r", "")]
    (run,) = client.search_runs(["1"])
    assert [model.name for model in models(client, run.info.run_id)] == ["step-30"]
    assert run.info.status == "KILLED"


@pytest.mark.usefixtures("unreachable")
def test_a_full_disk_hides_no_error_and_what_is_lost_by_it_is_told(store):
    spool = spool_file(store, "train", "r")
    about = pytest.raises(ZeroDivisionError)
    with about, files_of_at_most(250), Tracker(store, "train", "r", spool=spool) as tracker:
        tracker.log(1, {"loss": 0.1})
        tracker.log(2, {"loss": 0.2})
        1 / 0  # noqa: B018 - the error that ends the run
    assert "1 records wait in" in tracker.problem
    assert "3 records are lost, which the full disk did not take" in tracker.problem
    assert len(spool.read_text().splitlines()) == 1


def test_a_killed_run_loses_nothing_and_the_next_run_of_the_store_sends_it(store, client):
    killed = (
        "import os, sys; from infra.storage import open_folder\n"
        "from infra.tracking import Tracker, spool_file\n"
        "store = open_folder(sys.argv[1])\n"
        "t = Tracker(store, 'train', 'r', spool=spool_file(store, 'train', 'r'))\n"
        "t.begin({'steps': 9}, {})\n"
        "[t.log(step, {'loss': step / 10}) for step in range(1, 6)]\n"
        "os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", killed, store.path], check=False, timeout=60)
    left = spool_file(store, "train", "r")
    assert len(left.read_text().splitlines()) == 7
    with left.open("a") as file:
        file.write('{"kind": "metr')  # the disk was full, or the power went
    other = Tracker(store, "train", "other", spool=spool_file(store, "train", "other"))
    other.finish({}, {}, {}, {})
    assert list(left.parent.iterdir()) == []
    run = client.search_runs(["1"], "tags.`visage.run` = 'r'")[0]
    assert history(client, run.info.run_id, "loss") == [(n, n / 10) for n in range(1, 6)]
    assert run.info.status == "KILLED"


@pytest.mark.usefixtures("unreachable")
def test_waiting_numbers_do_not_go_to_another_mlflow(store, monkeypatch):
    tracker = Tracker(store, "train", "r", spool=spool_file(store, "train", "r"))
    tracker.log(1, {"loss": 0.5})
    tracker.finish({}, {}, {}, {})
    assert "records wait in" in tracker.problem
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (sent,) = send_waiting(store)
    assert (sent.run, f"meant for {DEAD}" in sent.problem) == ("r", True)
    assert [json.loads(line)["kind"] for line in tracker._spool.path.open()][-1] == "end"


@pytest.mark.slow
def test_records_wait_while_a_server_is_down_and_arrive_once(store, tmp_path, export, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setattr(tracking, "SEND_EVERY_S", 0.2)
    monkeypatch.setattr(tracking, "RETRY_EVERY_S", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    client = MlflowClient(tracking_uri=server.uri)
    spool = spool_file(store, "train", "r")
    try:
        tracker = Tracker(store, "train", "r", spool=spool)
        tracker.log(1, {"loss": 0.1})
        until(lambda: tracker.problem)
        assert tracker.url == server.uri
        server.start()
        tracker.log(2, {"loss": 0.2})
        until(lambda: not tracker.problem and not len(tracker._spool))
        assert tracker.url.startswith(f"{server.uri}/#/experiments/")
        server.stop()
        tracker.log(3, {"loss": 0.3})
        tracker.model("step-3", export, {}, 3)
        tracker.model("step-3", export, {}, 3)
        assert end(tracker) == ""
        assert str(spool) in tracker.problem
        server.start()
        assert [(sent.run, sent.problem) for sent in send_waiting(store)] == [("r", "")]
        assert send_waiting(store) == []
        assert history(client, tracker.run_id, "loss") == [(n, n / 10) for n in (1, 2, 3)]
        run = client.get_run(tracker.run_id)
        assert (run.info.status, run.data.metrics["rows"]) == ("FINISHED", 3.0)
        assert [str(model.status) for model in models(client, tracker.run_id)] == ["READY"]
        assert [a.path for a in client.list_artifacts(tracker.run_id)] == ["report.html"]
    finally:
        server.stop()


def test_an_address_that_no_mlflow_can_have_is_refused_at_once(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://mlflow")
    with pytest.raises(BadValue, match=r"MLFLOW_TRACKING_URI cannot be .*begins with http://"):
        tracking_uri(store)
