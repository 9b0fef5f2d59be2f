import pytest

from infra.lineage import CORPUS_TAG, trained_on
from infra.mlflow_run import connect
from infra.registry import UnreachableRegistry
from infra.storage import open_store
from infra.tracking import tracking_uri


def test_the_versions_trained_on_a_corpus_are_named(tmp_path):
    store = open_store(str(tmp_path))
    client = connect(tracking_uri(store))
    for name, corpus in (("faces", "c1"), ("faces", "c2"), ("small", "c1")):
        if name not in {model.name for model in client.search_registered_models()}:
            client.create_registered_model(name)
        client.create_model_version(name, str(tmp_path / "export"), tags={CORPUS_TAG: corpus})
    assert trained_on(store, {"c1"}) == ["faces/1", "small/1"]
    assert trained_on(store, {"c3"}) == []


def test_a_store_without_mlflow_has_no_models_and_gets_none(tmp_path):
    assert trained_on(open_store(str(tmp_path)), {"c1"}) == []
    assert not (tmp_path / "mlflow.db").exists()


def test_an_mlflow_that_is_none_is_said(tmp_path, monkeypatch):
    (tmp_path / "notes.db").write_text("no database" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/notes.db")
    with pytest.raises(UnreachableRegistry):
        trained_on(open_store(str(tmp_path)), {"c1"})
