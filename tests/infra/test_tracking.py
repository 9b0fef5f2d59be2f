import pytest

from infra.storage import open_folder
from infra.tracking import Tracker, tracking_uri


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return open_folder(str(tmp_path / "store")).make()


def end(tracker):
    return tracker.finish(
        params={"keep.min_side_px": 200},
        metrics={"rows": 3.0},
        texts={"report.html": "<html>"},
        tags={"visage.code": "c"},
    )


def test_a_run_leaves_params_metrics_and_the_report(store):
    from mlflow.tracking import MlflowClient

    run_id = end(Tracker(store, "curate", "lfw-1"))
    client = MlflowClient(tracking_uri=tracking_uri(store))
    run = client.get_run(run_id)
    assert run.data.params == {"keep.min_side_px": "200"}
    assert run.data.metrics == {"rows": 3.0}
    assert run.info.status == "FINISHED"
    assert [a.path for a in client.list_artifacts(run_id)] == ["report.html"]
    assert run.info.artifact_uri.startswith(store.path)


def test_a_run_goes_on_under_its_old_id(store):
    first = end(Tracker(store, "curate", "lfw-1"))
    assert end(Tracker(store, "curate", "lfw-1")) == first
    assert end(Tracker(store, "curate", "lfw-2")) != first


def test_an_unreachable_server_is_a_sentence_and_not_a_crash(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = Tracker(store, "curate", "lfw-1")
    assert end(tracker) == ""
    assert tracker.problem.startswith("MLflow at http://127.0.0.1:9 was not written:")


def test_a_password_of_the_tracking_address_is_shown_nowhere(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hunter2@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = Tracker(store, "curate", "lfw-1")
    assert end(tracker) == ""
    assert "hunter2" not in tracker.uri + tracker.problem
