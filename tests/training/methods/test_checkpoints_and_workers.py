"""Whatever a method trains comes back at resume, and is the same on one worker and on two."""

from dataclasses import replace

import pytest
import torch

from tests.training.conftest import write_features
from tests.training.many import Workers, apart, train
from training.build import load_export
from training.checkpoints import latest
from training.method import Condition, Sampling
from training.recipes import tiny
from training.settings import (
    BaseModelSettings,
    DataSettings,
    DropSettings,
    MethodSettings,
    OptimiserSettings,
    Scale,
)

KINDS = {
    "instant_id": MethodSettings(kind="instant_id", tokens=16, identity_norm="raw"),
    "arc2face": MethodSettings(kind="arc2face"),
    "consistent_id": MethodSettings(kind="consistent_id", lora_rank=4),
    "fast_composer": MethodSettings(kind="fast_composer"),
    "photo_verse": MethodSettings(kind="photo_verse", lora_rank=4, sparsity=0.01),
    "w_plus": MethodSettings(kind="w_plus"),
    "infinite_id": MethodSettings(kind="infinite_id"),
    "face_chain_fact": MethodSettings(kind="face_chain_fact"),
    "dp_adapter": MethodSettings(kind="dp_adapter"),
    "uni_id": MethodSettings(kind="uni_id", text_tokens=2),
}
PARTS = {
    "instant_id": {"unet", "resampler", "controlnet"},
    "arc2face": {"unet", "encoder"},
    "consistent_id": {"unet", "projection", "facial_encoder"},
    "fast_composer": {"unet", "object_norm", "object_projection", "fuser"},
    "photo_verse": {"unet", "text_adapter", "image_adapter"},
    "w_plus": {"unet", "mapper", "tokens"},
    "infinite_id": {"unet", "image_proj"},
    "face_chain_fact": {"unet", "tokens"},
    "dp_adapter": {"unet", "image_proj"},
    "uni_id": {"unet", "text_branch", "adapter_branch"},
}
SELDOM = ("consistent_id", "photo_verse", "w_plus", "infinite_id", "dp_adapter", "uni_id")
"""Kinds whose parts are like others': only in the slow tests."""
SELDOM_TOGETHER = [
    ("consistent_id", 0), ("consistent_id", 2), ("photo_verse", 0), ("photo_verse", 2),
    ("w_plus", 3), ("infinite_id", 0), ("infinite_id", 3), ("dp_adapter", 2), ("uni_id", 0),
    ("uni_id", 3),
]  # fmt: skip
EVERY = pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.slow] * (kind in SELDOM)) for kind in KINDS],
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("methods")
    write_features(
        home / "features", shape=(4, 16, 16), codec="random:tiny-sd", text=(5, 32), image=(5, 24)
    )
    return home


def recipe(home, kind, **more):
    return replace(
        tiny(),
        base=BaseModelSettings(weights="random:tiny-sd"),
        data=DataSettings(path=str(home / "features"), heldout_share=0.0),
        method=KINDS[kind],
        drop=DropSettings(identity=0.2, text=0.1, both=0.1),
        optimiser=OptimiserSettings(learning_rate=1e-3, ema_decay=0.9),
        steps=4, batch=4, microbatch=2, save_every=2, log_every=1, **more,
    )  # fmt: skip


@EVERY
def test_all_that_is_trained_comes_back_at_resume(home, tmp_path, kind):
    """InstantID's training code forgot its ControlNet: it began anew with every start."""
    ours = recipe(home, kind)
    whole = train(ours, tmp_path / "whole")
    first = train(replace(ours, steps=2), tmp_path / "cut")
    rest = train(ours, tmp_path / "cut")
    assert first["losses"] + rest["losses"] == pytest.approx(whole["losses"], abs=1e-6)
    assert apart(rest["weights"], whole["weights"]) < 1e-6
    moved = {name for name, w in first["weights"].items() if (w != whole["weights"][name]).any()}
    assert {name.partition(".")[0] for name in moved} == PARTS[kind]


@EVERY
def test_half_precision_is_close_to_full(home, tmp_path, kind):
    ours = replace(recipe(home, kind), steps=2)
    half = train(replace(ours, scale=Scale(precision="bf16")), tmp_path / "half")
    full = train(ours, tmp_path / "full")
    assert half["losses"] == pytest.approx(full["losses"], rel=0.01)
    assert half["losses"] != full["losses"]


@EVERY
def test_a_checkpoint_s_export_draws(home, tmp_path, kind):
    train(recipe(home, kind), tmp_path)
    method = load_export(latest(tmp_path) / "export")
    rng = torch.Generator().manual_seed(0)
    image = torch.ones(1, 5, 24) if method.recipe.method.takes_image else None
    drawn = method.generate(Condition(torch.ones(1, 8), image=image), rng, Sampling(steps=2))
    assert drawn.shape == (1, 3, 64, 64)


@pytest.fixture(scope="module")
def pair(home):
    (home / "two").mkdir()
    workers = Workers(2, home / "two")
    yield workers
    workers.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "stage"),
    [
        ("instant_id", 0),
        ("instant_id", 3),
        ("arc2face", 2),
        ("fast_composer", 2),
        ("face_chain_fact", 3),
        *(pytest.param(kind, stage, marks=pytest.mark.long) for kind, stage in SELDOM_TOGETHER),
    ],
)
def test_two_workers_have_the_losses_of_one(home, pair, tmp_path, kind, stage):
    ours = recipe(home, kind)
    alone = train(ours, tmp_path / "alone")
    many = replace(ours, scale=Scale(workers=2, zero_stage=stage))
    first, second = pair.train(many, tmp_path / "many")
    assert first["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert apart(first["weights"], alone["weights"]) < 1e-5
    assert apart(first["weights"], second["weights"]) == 0
