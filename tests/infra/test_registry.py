import pickle

import pytest

from infra.errors import BadValue, BadWeights
from infra.registry import Registry, UnknownModel, UnreachableRegistry
from infra.tracking import Tracker
from tests.infra.mlflow_server import Server, put_database


@pytest.fixture
def registry(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    put_database(tmp_path / "store")
    return Registry(str(tmp_path / "store"))


@pytest.fixture
def export(tmp_path):
    (tmp_path / "export/unet").mkdir(parents=True)
    (tmp_path / "export/adapter.safetensors").write_bytes(b"weights")
    (tmp_path / "export/unet/config.json").write_text("{}")
    return tmp_path / "export"


def test_a_released_model_comes_back_as_it_was(registry, export, tmp_path):
    made = registry.register("faceid", export, {"visage.corpus": "c0ffee"}, description="# Card")
    registry.move("faceid", "champion", made.version, {"why": "first"})
    found = registry.resolve("faceid@champion")
    assert (found.reference, found.aliases, found.description) == (
        "faceid/1", ("champion",), "# Card",
    )  # fmt: skip
    assert {"visage.corpus": "c0ffee", "why": "first"}.items() <= found.tags.items()
    assert sorted(found.files) == ["adapter.safetensors", "unet/config.json"]
    for cache in (tmp_path / "one", tmp_path / "two"):
        folder = registry.download(found, cache)
        assert (folder / "adapter.safetensors").read_bytes() == b"weights"
        assert (folder / "unet/config.json").read_text() == "{}"
        assert [p.name for p in (cache / "faceid").iterdir()] == [folder.name]


def test_the_same_files_are_the_same_version_with_new_tags(registry, export):
    first = registry.register("faceid", export, {"score": "1"})
    again = registry.register("faceid", export, {"score": "2"}, description="new")
    assert (again.version, again.tags["score"], again.description) == (first.version, "2", "new")
    (export / "adapter.safetensors").write_bytes(b"others")
    assert registry.register("faceid", export, {}).version == 2
    assert [version.version for version in registry.versions("faceid")] == [2, 1]


def test_a_name_alone_is_its_newest_version_and_a_number_is_fixed(registry, export):
    registry.register("faceid", export, {})
    (export / "adapter.safetensors").write_bytes(b"others")
    registry.register("faceid", export, {})
    assert registry.resolve("faceid").version == 2
    assert registry.resolve("faceid/1").version == 1


def test_an_alias_that_is_not_there_is_none(registry, export):
    assert registry.alias("faceid", "champion") is None
    registry.register("faceid", export, {})
    assert registry.alias("faceid", "champion") is None


@pytest.mark.parametrize("unknown", ["facid", "faceid@champoin", "faceid/7"])
def test_an_unknown_model_is_answered_with_the_nearest(registry, export, unknown):
    registry.register("faceid", export, {})
    registry.move("faceid", "champion", 1)
    with pytest.raises(UnknownModel, match=f"no model '{unknown}'. Did you mean 'faceid"):
        registry.resolve(unknown)


@pytest.mark.parametrize("name", ["../x", "a/b/c", "a@b@c", "", "a b", "faceid/0", "faceid/x", "."])
def test_a_reference_is_no_path(registry, name):
    with pytest.raises(BadValue, match="NAME@ALIAS"):
        registry.resolve(name)


@pytest.mark.parametrize("alias", ["latest", "v3", "a/b", ""])
def test_reserved_and_strange_aliases_are_refused(registry, export, alias):
    registry.register("faceid", export, {})
    with pytest.raises(BadValue, match="letters"):
        registry.move("faceid", alias, 1)


@pytest.mark.parametrize("change", ["alter", "add", "remove"])
def test_a_file_changed_in_the_store_is_not_downloaded(registry, export, tmp_path, change):
    version = registry.register("faceid", export, {})
    (kept,) = (tmp_path / "store").rglob("adapter.safetensors")
    if change == "alter":
        kept.write_bytes(b"weighty")
    elif change == "add":
        kept.with_name("more.json").write_text("{}")
    else:
        kept.unlink()
    named = "more.json" if change == "add" else "adapter.safetensors"
    with pytest.raises(BadWeights, match=named):
        registry.download(version, tmp_path / "cache")
    assert list((tmp_path / "cache").rglob("*.*")) == [], "nothing of it is kept"


def test_a_file_changed_in_the_cache_is_not_used(registry, export, tmp_path):
    version = registry.register("faceid", export, {})
    folder = registry.download(version, tmp_path / "cache")
    (folder / "adapter.safetensors").write_bytes(b"weighty")
    with pytest.raises(BadWeights, match=f"Delete {folder}"):
        registry.download(version, tmp_path / "cache")


def test_a_download_cut_short_is_begun_anew(registry, export, tmp_path, monkeypatch):
    version = registry.register("faceid", export, {})

    def half(_, __, folder):
        (folder / "adapter.safetensors").write_bytes(b"wei")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Registry, "_fetch", half)
        with pytest.raises(KeyboardInterrupt):
            registry.download(version, tmp_path / "cache")
    folder = registry.download(version, tmp_path / "cache")
    assert (folder / "adapter.safetensors").read_bytes() == b"weights"


def test_a_pickle_and_an_empty_folder_are_not_registered(registry, export, tmp_path):
    (export / "more.pt").write_bytes(b"")
    with pytest.raises(BadWeights, match="is a pickle"):
        registry.register("faceid", export, {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadWeights, match="holds no file"):
        registry.register("faceid", tmp_path / "empty", {})


def test_a_version_knows_the_training_run_it_is_from(registry, export, tmp_path):
    from infra.storage import open_folder

    tracker = Tracker(open_folder(str(tmp_path / "store")), "train", "lfw64-1")
    run_id = tracker.finish({}, {}, {}, {})
    assert registry.register("faceid", export, {}, run="lfw64-1").run_id == run_id


@pytest.mark.parametrize("where", ["http://ann:hunter2@127.0.0.1:9", "{tmp}/no-store"])
def test_a_registry_that_cannot_be_reached_is_one_sentence(tmp_path, monkeypatch, where):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    registry = Registry(where.format(tmp=tmp_path))
    with pytest.raises(UnreachableRegistry, match="MLFLOW_TRACKING_URI") as caught:
        registry.resolve("faceid")
    assert "hunter2" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_an_unknown_model_crosses_processes_whole():
    error = UnknownModel("facid", "sqlite:///x", ("faceid",))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.slow
def test_it_is_the_same_through_a_server(export, tmp_path):
    server = Server(tmp_path)
    try:
        registry = Registry(server.start().uri)
        made = registry.register("faceid", export, {"a": "b"}, description="# Card")
        registry.move("faceid", "champion", made.version)
        found = registry.resolve("faceid@champion")
        folder = registry.download(found, tmp_path / "cache")
        assert (folder / "adapter.safetensors").read_bytes() == b"weights"
        assert registry.register("faceid", export, {}).version == made.version
        with pytest.raises(UnknownModel, match="Did you mean 'faceid'"):
            registry.resolve("facid")
    finally:
        server.stop()
