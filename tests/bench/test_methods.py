"""The two benches of methods: what they run, and that it runs at tiny size."""

import json
import subprocess
import sys
from argparse import Namespace
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import methods, methods_lfw64
from tests.training.measured import measured_features
from training.build import METHODS, make_method
from training.features import Prepared
from training.nets.presets import load_unet
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
    of = {"base": "random:unet64", "pva": "random:sdxl-inpainting"}.get(kind, "random:sdxl")
    assert (recipe.method.kind, recipe.base.weights) == (kind, of)
    assert (recipe.batch, recipe.losses.identity) == (2, 0.0)
    assert bool(recipe.data.subject) is recipe.method.per_subject


def test_what_plain_is_has_no_lora_and_ratios_are_to_its_steps_beside_each():
    assert methods.recipe_of(methods.PLAIN, "sd15").method.lora_rank == 0
    costs = [
        methods.Cost(methods.PLAIN, 2_000_000, 2.0, 1.0, 1.0, 4.0),
        methods.Cost("lora", 1_000_000, 9.0, 3.0, 2.0, 6.0),
        methods.Cost("pva", left_out="why"),
    ]
    told = list(methods.table(costs))
    assert told[3] == "| lora | 1.0 | 9.00 | 3.00 | 2.00 | 1.50 | 6.00 | 1.50 |  |"
    assert told[4].endswith("left out: why |")


class Turns:
    """A process whose steps take the next of some seconds, or that fails where there is none."""

    def __init__(self, kind, taken, each_s):
        self.kind, self.taken, self.left_s, self.ended = kind, taken, iter(each_s), False
        self.each_s = each_s

    def step(self):
        self.taken.append(self.kind)
        seconds = next(self.left_s, None)
        if seconds is None:
            raise methods.Failed("no more")
        return seconds

    def end(self):
        return {"trained": 1, "peak_gib": 1.0}


def test_plain_takes_its_steps_by_turns_before_and_after_and_its_fastest_counts(monkeypatch):
    taken = []
    plain = Turns(methods.PLAIN, taken, (3.0, 2.0, 5.0))
    monkeypatch.setattr(methods, "too_large", lambda *_: "")
    monkeypatch.setattr(
        methods, "side", lambda kind, _: nullcontext(Turns(kind, taken, (1.0, 1.0)))
    )
    asked = Namespace(base="sd15", device="cpu", steps=2)
    assert methods.measure("lora", asked, plain).plain_s == 2.0
    assert taken == ["plain", "lora", "plain", "lora", "plain"]
    plain.left_s = iter([1.0] * 9)
    asked.steps = 3
    assert methods.measure("lora", asked, plain).left_out == "no more"
    plain.left_s, plain.ended = iter(()), True
    with pytest.raises(methods.Failed):
        methods.measure("lora", asked, plain)


def test_a_base_that_paints_is_told_nine_channels():
    name = methods.inpainting("tiny-sd")
    assert load_unet(f"random:{name}").config.in_channels == 9


def test_what_would_not_fit_beside_others_is_left_out(monkeypatch):
    monkeypatch.setattr(methods, "available_gib", lambda: 14.0)
    assert "GiB, 14.0 are free" in methods.too_large("arc2face", "sd15")
    assert methods.too_large("lora", "sd15") == ""


@pytest.mark.long
def test_a_step_of_each_named_method_is_measured_in_its_own_process(tmp_path):
    told = subprocess.run(
        [sys.executable, "-m", "tests.bench.methods", "--base", "tiny-sd", "--px", "64", "--steps",
         "1", "--threads", "1", "--only", "lora", "pva", "base", "magic_id", "--json",
         tmp_path / "told.json"],
        cwd=ROOT, capture_output=True, text=True, timeout=250, check=True,
    )  # fmt: skip
    plain, lora, pva, base, magic_id = json.loads((tmp_path / "told.json").read_text())
    assert lora["trained"] < plain["trained"]
    for cost in (plain, lora, pva, base):
        assert min(cost["fastest_s"], cost["plain_s"]) > 0, cost
        assert cost["peak_gib"] > 0.1
    assert (lora["left_out"], pva["left_out"]) == ("", "")
    assert "its own" in base["left_out"]
    assert not magic_id["step_s"]
    assert "| pva |" in told.stdout


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
