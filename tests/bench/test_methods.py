"""The two benches of methods: what they run, and that it runs at tiny size."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import methods, methods_lfw64
from tests.training.measured import measured_features
from training.build import METHODS, make_method
from training.features import Prepared
from training.recipes import lfw64_adapter, lfw64_text_base
from training.settings import MethodSettings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_is_measured_on_a_true_base_or_there_is_a_reason(kind):
    if kind in methods.UNFIT:
        with pytest.raises(KeyError):
            methods.recipe_of(kind, "sd15")
        return
    recipe, _ = methods.settled(kind, "sdxl", 2, "cpu", 1)
    assert (recipe.method.kind, recipe.base.weights) == (kind, "random:sdxl")
    assert (recipe.batch, recipe.losses.identity) == (2, 0.0)
    assert bool(recipe.data.subject) is recipe.method.per_subject


def test_what_plain_is_has_no_lora_and_ratios_are_to_it():
    assert methods.recipe_of(methods.PLAIN, "sd15").method.lora_rank == 0
    costs = [
        methods.Cost(methods.PLAIN, 2_000_000, 2.0, 1.0, 4.0),
        methods.Cost("lora", 1_000_000, 9.0, 3.0, 6.0),
        methods.Cost("pva", left_out="why"),
    ]
    told = list(methods.table(costs))
    assert told[3] == "| lora | 1.0 | 9.00 | 3.00 | 3.00 | 6.00 | 1.50 |  |"
    assert told[4].endswith("left out: why |")


def test_what_would_not_fit_beside_others_is_left_out(monkeypatch):
    monkeypatch.setattr(methods, "available_gib", lambda: 14.0)
    assert "GiB, 14.0 are free" in methods.too_large("arc2face", "sd15")
    assert methods.too_large("lora", "sd15") == ""


@pytest.mark.long
def test_a_step_of_each_named_method_is_measured_in_its_own_process(tmp_path):
    told = subprocess.run(
        [sys.executable, "-m", "tests.bench.methods", "--base", "tiny-sd", "--px", "64", "--steps",
         "1", "--threads", "1", "--only", "lora", "pva", "--json", tmp_path / "told.json"],
        cwd=ROOT, capture_output=True, text=True, timeout=250, check=True,
    )  # fmt: skip
    plain, lora, pva = json.loads((tmp_path / "told.json").read_text())
    assert plain["step_s"] > 0
    assert lora["trained"] < plain["trained"]
    assert min(plain["peak_gib"], lora["peak_gib"]) > 0.1
    assert pva["left_out"]
    assert "| lora |" in told.stdout


def test_arc2face_trains_the_base_of_lfw64_beside_words_of_its_width(tmp_path):
    features = measured_features(tmp_path / "features", people=4, photos=2, text=(77, 128))
    prepared = Prepared(features)
    small = replace(lfw64_text_base(), method=replace(lfw64_text_base().method, width=32))
    base = make_method(small, prepared)
    base.save(tmp_path / "base")
    home = methods_lfw64.with_words(tmp_path / "base", tmp_path / "words")
    assert methods_lfw64.with_words(tmp_path / "base", home) == home
    told = MethodSettings(kind="arc2face", identity_norm="standard")
    weights = replace(lfw64_adapter().base, weights=f"file:{home}")
    method = make_method(replace(lfw64_adapter(), method=told, base=weights), prepared)
    held = base.unet.state_dict()
    assert all(weight.equal(held[name]) for name, weight in method.unet.state_dict().items())
    assert method.encoder.width == 128


def test_a_row_has_every_score_with_its_interval_or_says_nothing():
    told = {"scores": {"auc": {"value": 0.75, "low": 0.7, "high": 0.8, "n": 9}}}
    row = methods_lfw64.line("FaceID", "identity", 3, told)
    assert row == "| FaceID | identity | 3 | - | 0.750 (0.700 to 0.800) | - | - | - | - |"
    assert methods_lfw64.losses_of(0.1, 0.2)["triplet"] == ["--losses.triplet", "0.2"]
