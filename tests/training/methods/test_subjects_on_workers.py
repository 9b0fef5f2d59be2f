"""What is tuned to one person comes back at resume, and is the same on one worker and on two."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from tests.training.conftest import write_features
from tests.training.many import Workers, apart, train
from training.build import load_export
from training.checkpoints import latest
from training.method import Condition, Sampling
from training.nets.presets import UNETS
from training.recipes import tiny
from training.settings import (
    BaseModelSettings,
    DataSettings,
    DropSettings,
    LossSettings,
    MethodSettings,
    OptimiserSettings,
    Scale,
)

WORD = {"subject_word": "<person>"}
KINDS = {
    "lora": (MethodSettings(kind="lora", lora_rank=4), LossSettings(prior=1.0), 0.5),
    "dis_booth": (
        MethodSettings(kind="dis_booth", lora_rank=4),
        LossSettings(contrastive_disentangle=0.01), 0.0,
    ),
    "stable_identity": (
        MethodSettings(kind="stable_identity", tokens=2, **WORD),
        LossSettings(mse=0.0, masked=1.0), 0.0,
    ),
    "sefi_ide": (MethodSettings(kind="sefi_ide", tokens=1, **WORD), LossSettings(), 0.5),
    "pva": (MethodSettings(kind="pva"), LossSettings(), 0.0),
}  # fmt: skip
PARTS = {
    "lora": {"unet"},
    "dis_booth": {"unet", "rest_adapter"},
    "stable_identity": {"vector", "tokens"},
    "sefi_ide": {"meanings"},
    "pva": {"unet"},
}
EVERY = pytest.mark.parametrize("kind", KINDS)
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("subjects")
    features = write_features(
        home / "features", shape=(4, 16, 16), codec="random:tiny-sd", text=(77, 32)
    )
    told = json.loads((features / "features.json").read_text())
    told["image_encoder"] = "random:tiny-clip"
    (features / "features.json").write_text(json.dumps(told))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        unet = UNet2DConditionModel.from_config({**UNETS["tiny-sd"], "in_channels": 9})
    unet.save_pretrained(home / "base/unet")
    return home


def recipe(home, kind, **more):
    method, losses, share = KINDS[kind]
    base = f"file:{home}/base" if kind == "pva" else "random:tiny-sd"
    data = DataSettings(
        path=str(home / "features"), heldout_share=0.0, subject="p3", prior_share=share
    )
    return replace(
        tiny(), base=BaseModelSettings(weights=base), data=data, method=method, losses=losses,
        drop=DropSettings(identity=0.0, text=0.1, both=0.0),
        optimiser=OptimiserSettings(learning_rate=1e-3, ema_decay=0.9),
        steps=4, batch=4, microbatch=2, save_every=2, log_every=1, **more,
    )  # fmt: skip


@EVERY
def test_all_that_is_trained_comes_back_at_resume_and_its_export_draws(home, tmp_path, kind):
    ours = recipe(home, kind)
    whole = train(ours, tmp_path / "whole")
    first = train(replace(ours, steps=2), tmp_path / "cut")
    rest = train(ours, tmp_path / "cut")
    assert first["losses"] + rest["losses"] == pytest.approx(whole["losses"], rel=1e-5)
    assert apart(rest["weights"], whole["weights"]) < 1e-6
    moved = {name for name, w in first["weights"].items() if (w != whole["weights"][name]).any()}
    assert {name.partition(".")[0] for name in moved} == PARTS[kind]
    method = load_export(latest(tmp_path / "cut") / "export")
    source, mask = torch.ones(1, 4, 16, 16), torch.ones(1, 16, 16)
    asked = Condition(torch.ones(1, 8), source=source, mask=mask)
    rng = torch.Generator().manual_seed(0)
    assert method.generate(asked, rng, Sampling(steps=2)).shape == (1, 3, 64, 64)


@EVERY
def test_half_precision_is_close_to_full(home, tmp_path, kind):
    ours = replace(recipe(home, kind), steps=2)
    half = train(replace(ours, scale=Scale(precision="bf16")), tmp_path / "half")
    full = train(ours, tmp_path / "full")
    assert half["losses"] == pytest.approx(full["losses"], rel=0.02)
    assert half["losses"] != full["losses"]


@pytest.fixture(scope="module")
def pair(home):
    (home / "two").mkdir()
    workers = Workers(2, home / "two")
    yield workers
    workers.close()


@pytest.mark.parametrize(
    ("kind", "stage"),
    [("lora", 2), ("dis_booth", 2), ("stable_identity", 3), ("sefi_ide", 3), ("pva", 3)],
)
def test_two_workers_have_the_losses_of_one(home, pair, tmp_path, kind, stage):
    ours = recipe(home, kind)
    alone = train(ours, tmp_path / "alone")
    many = replace(ours, scale=Scale(workers=2, zero_stage=stage))
    first, second = pair.train(many, tmp_path / "many")
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    assert apart(first["weights"], alone["weights"]) < 1e-5
    assert apart(first["weights"], second["weights"]) == 0
