import json
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from safetensors.torch import load_file, save_file

from infra.errors import BadValue, BadWeights, UnknownKey
from training.build import METHODS, build, load_export, make_method
from training.exports import CONFIG, read_export
from training.features import Prepared
from training.method import Condition, Method, Sampling
from training.recipes import lfw64
from training.settings import DataSettings, MethodSettings


@pytest.fixture
def recipe(features):
    return replace(
        lfw64(),
        data=DataSettings(path=str(features), heldout_share=0.0),
        method=MethodSettings(kind="base", width=32),
    )


@pytest.fixture
def export(recipe, tmp_path):
    """An export whose features are gone."""
    folder = tmp_path / "export"
    build(recipe).method.save(folder)
    Path(recipe.data.path).rename(tmp_path / "elsewhere")
    return folder


def test_every_kind_of_method_in_the_recipes_is_one_that_can_be_made():
    assert set(get_args(get_type_hints(MethodSettings)["kind"])) == set(METHODS)


def test_a_kind_without_a_class_is_refused(recipe, monkeypatch):
    monkeypatch.delitem(METHODS, "base")
    with pytest.raises(BadValue, match=r"no such method. Known: .*ip_adapter_faceid"):
        make_method(recipe, Prepared(Path(recipe.data.path)))


def test_an_export_draws_without_its_features(export):
    method = load_export(export)
    assert isinstance(method, Method)
    assert method.features == read_export(export).features
    drawn = method.generate(
        Condition(torch.ones(2, 8)), torch.Generator().manual_seed(0), Sampling(steps=2)
    )
    assert drawn.shape == (2, 3, 32, 32)


def test_an_export_holds_every_file_under_its_sha256(export):
    files = json.loads((export / CONFIG).read_text())["files"]
    there = {p.relative_to(export).as_posix() for p in export.rglob("*") if p.is_file()}
    assert set(files) == there - {CONFIG, "README.md"}
    assert {Path(name).suffix for name in files} == {".safetensors", ".json"}


@pytest.mark.parametrize(
    "name", ["codec.safetensors", "features.json", "unet/config.json", "tokens.safetensors"]
)
def test_a_missing_file_is_named(export, name):
    (export / name).unlink()
    with pytest.raises(BadWeights, match=f"{name}' cannot be used: the file does not exist"):
        load_export(export)


def test_an_altered_weight_is_noticed(export):
    path = export / "tokens.safetensors"
    held = load_file(path)
    held["last.bias"][0] += 1e-3
    save_file(held, path)
    with pytest.raises(BadWeights, match=r"tokens.safetensors.*altered after it was exported"):
        load_export(export)


@pytest.mark.parametrize("name", ["old.bin", "unet/model.ckpt", "x.pt", "y.pkl"])
def test_a_pickle_among_the_files_is_refused(export, name):
    torch.save({}, export / name)
    with pytest.raises(BadWeights, match=r"is a pickle.*Convert it to safetensors"):
        load_export(export)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(BadWeights, match=r"does not exist.*Name the export of a checkpoint"):
        load_export(tmp_path)
    for held in ("[", "[]", "{}", '{"format": 1, "files": [], "recipe": {}, "base": ""}'):
        (tmp_path / CONFIG).write_text(held)
        with pytest.raises(BadWeights, match="Name the export of a checkpoint"):
            load_export(tmp_path)


def changed(export, **about):
    held = json.loads((export / CONFIG).read_text())
    (export / CONFIG).write_text(json.dumps(held | about))


def test_files_outside_the_export_are_not_looked_at(export):
    changed(export, files={"../elsewhere/features.json": "0" * 64})
    with pytest.raises(BadWeights, match="which is outside"):
        load_export(export)


def test_an_export_of_a_method_that_nobody_here_wrote_says_which_there_are(export):
    held = json.loads((export / CONFIG).read_text())["recipe"]
    held["method"]["kind"] = "face_swap"
    changed(export, recipe=held)
    with pytest.raises(BadValue, match=r"'face_swap': choose among \('base', .*'ip_adapter"):
        load_export(export)


def test_an_export_of_another_version_says_what_is_new_in_it(export):
    held = json.loads((export / CONFIG).read_text())["recipe"]
    held["method"]["kind_of_magic"] = 3
    changed(export, recipe=held)
    with pytest.raises(UnknownKey, match="kind_of_magic"):
        load_export(export)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MethodSettings(tokens=0),
        lambda: MethodSettings(variant="plus", tokens=16),
        lambda: MethodSettings(variant="portrait", lora_rank=4),
    ],
)
def test_methods_that_cannot_be_exported_are_refused_when_made(make):
    with pytest.raises(BadValue):
        make()
