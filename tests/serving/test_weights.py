import time

import pytest

from infra.errors import BadInput, BadWeights
from infra.registry import UnknownModel, UnreachableRegistry
from serving.errors import Refusal
from serving.recipes import ServeRecipe
from serving.weights import Held, Shelf
from tests.serving.conftest import tiny_export, tiny_registry


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """An MLflow with two names, and where it keeps what it was given."""
    home = tmp_path_factory.mktemp("released")
    one, two = tiny_export(home / "one"), tiny_export(home / "two", seed=1)
    return home, tiny_registry(home / "store", faces=one, other=two), two


def recipe(home, **changes):
    settings = {"model": "faces@champion", "adapters": ("other",)} | changes
    return ServeRecipe(name="test", store=str(home / "store"), **settings)


def wait_for(what, timeout_s=20.0):
    until = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)


def test_a_name_means_the_version_that_its_alias_points_to_and_follows_it(released, tmp_path):
    home, registry, two = released
    shelf = Shelf(recipe(home), tmp_path, follow_s=0.0)
    first = shelf.resolve("")
    assert (first.name, first.labels["visage.corpus"]) == ("faces/1", "c0ffee")
    assert first.folder.is_relative_to(tmp_path)
    assert shelf.resolve("other").signature == first.signature
    second = registry.register("faces", two, {})
    registry.move("faces", "champion", second.version)
    try:
        wait_for(lambda: shelf.known("").name == "faces/2")
        assert shelf.resolve("faces/1").name == "faces/1"
    finally:
        registry.move("faces", "champion", 1)
        shelf.close()


def test_a_registry_that_goes_down_later_is_not_missed(released, tmp_path, caplog):
    home, _, _ = released
    shelf = Shelf(recipe(home), tmp_path, follow_s=0.0)
    model = shelf.resolve("")
    hidden = (home / "store").rename(home / "gone")
    try:
        shelf.known("")
        wait_for(lambda: "stays as it is" in caplog.text)
        assert shelf.known("") == model
        with pytest.raises(UnreachableRegistry, match="cannot be used"):
            Shelf(recipe(home), tmp_path).resolve("")
    finally:
        hidden.rename(home / "store")
        shelf.close()


def test_only_what_is_served_can_be_named(released, tmp_path):
    home, _, _ = released
    shelf = Shelf(recipe(home), tmp_path)
    for name in ("nobody", "file:/etc", "../other", "other@x/../y", "other/../../x"):
        with pytest.raises((Refusal, BadInput)):
            shelf.resolve(name)
    with pytest.raises(Refusal, match="No model 'nobody' is served here") as refused:
        shelf.known("nobody")
    assert refused.value.code == "unknown_model"
    with pytest.raises(UnknownModel):
        shelf.resolve("other@nightly")


def test_a_download_that_was_altered_is_refused(released, tmp_path):
    home, _, _ = released
    shelf = Shelf(recipe(home), tmp_path)
    model = shelf.resolve("")
    model.check()
    (model.folder / "config.json").write_text("{}")
    with pytest.raises(BadWeights, match="SHA-256 differs"):
        model.check()
    with pytest.raises(BadWeights, match=r"config\.json"):
        Shelf(recipe(home), tmp_path).resolve("")


def test_a_folder_is_served_as_it_was_when_it_was_first_read(tmp_path):
    folder = tiny_export(tmp_path / "local")
    shelf = Shelf(ServeRecipe(name="test", model=f"file:{folder}"))
    model = shelf.resolve("")
    assert shelf.known("") is model
    (folder / "more.safetensors").write_bytes(b"")
    with pytest.raises(BadWeights, match=r"more\.safetensors"):
        model.check()
    with pytest.raises(BadWeights, match="does not exist"):
        Shelf(ServeRecipe(name="test", model="file:/no/such/folder")).resolve("")


def test_what_was_used_least_recently_goes_first():
    held = Held(2)
    held.put("a", 1)
    held.put("b", 2)
    assert held.get("a") == 1
    held.put("c", 3)
    assert [held.get(key) for key in "abc"] == [1, None, 3]
    assert len(held) == 2
