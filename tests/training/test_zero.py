"""Many workers and every ZeRO stage, with a real small method: the same losses, any way round."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.training.conftest import noise_features, write_features
from tests.training.many import Workers, train
from training.checkpoints import latest
from training.recipes import lfw64, tiny
from training.settings import DataSettings, DropSettings, MethodSettings, OptimiserSettings, Scale

STEPS = 4


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("zero")


@pytest.fixture(scope="module")
def recipe(home):
    return replace(
        lfw64(),
        data=DataSettings(path=str(noise_features(home)), heldout_share=0.0),
        method=MethodSettings(kind="base", width=32, identity_norm="standard"),
        drop=DropSettings(identity=0.1, text=0.0, both=0.0),
        optimiser=OptimiserSettings(learning_rate=2e-3, ema_decay=0.9, clip_norm=0.5),
        scale=Scale(), steps=STEPS, batch=8, microbatch=2, save_every=2, log_every=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pools(home):
    """One process, and two."""
    started = {}
    for world in (1, 2):
        (home / str(world)).mkdir()
        started[world] = Workers(world, home / str(world))
    yield started
    for workers in started.values():
        workers.close()


@pytest.fixture(scope="module")
def plain(recipe, home):
    return train(recipe, home / "plain")


def scaled(recipe, world, stage, **how):
    return replace(recipe, scale=Scale(workers=world, zero_stage=stage, **how))


def apart(ours, theirs):
    """Mean distance of two sets of weights; Adam makes much of gradients that are almost 0."""
    return float(np.mean([np.abs(ours[name] - weight).mean() for name, weight in theirs.items()]))


SLOW = pytest.mark.slow


@pytest.mark.parametrize(("world", "stage", "offload"), [
    (2, 2, False),
    pytest.param(2, 3, True, marks=SLOW),
    pytest.param(2, 0, False, marks=SLOW),
    pytest.param(1, 1, False, marks=SLOW),
    pytest.param(2, 1, True, marks=SLOW),
    pytest.param(1, 3, False, marks=SLOW),
])  # fmt: skip
def test_losses_norms_weights_and_exports_are_those_of_one_plain_process(
    recipe, pools, plain, home, tmp_path, world, stage, offload
):
    first, *others = pools[world].train(scaled(recipe, world, stage, offload=offload), tmp_path)
    assert first["losses"] == pytest.approx(plain["losses"], abs=1e-5)
    assert first["norms"] == pytest.approx(plain["norms"], rel=1e-3)
    assert apart(first["weights"], plain["weights"]) < 1e-5
    assert all(apart(first["weights"], o["weights"]) == 0 and not o["losses"] for o in others)
    assert apart(exported(tmp_path), exported(home / "plain")) < 1e-5
    assert apart(exported(tmp_path), plain["weights"]) > 1e-4, "the average was not exported"


def exported(out):
    """The averaged weights of a run's newest checkpoint."""
    export = latest(out) / "export"
    files = {"unet": "unet/diffusion_pytorch_model.safetensors", "tokens": "tokens.safetensors"}
    return {
        f"{part}.{name}": weight
        for part, file in files.items()
        for name, weight in load_file(export / file).items()
    }


@SLOW
def test_a_run_goes_on_from_the_checkpoint_of_any_other_number_of_workers_and_stage(
    recipe, pools, home, tmp_path
):
    whole = train(replace(recipe, steps=10, save_every=10), home / "long")
    losses = []
    for end, (world, stage) in zip(
        (2, 4, 6, 8, 10), ((1, 0), (2, 2), (2, 3), (1, 1), (1, 0)), strict=True
    ):
        part = replace(scaled(recipe, world, stage), steps=end)
        told = pools[world].train(part, tmp_path)[0] if stage else train(part, tmp_path)
        losses += told["losses"]
    assert losses == pytest.approx(whole["losses"], abs=2e-5)
    assert apart(exported(tmp_path), exported(home / "long")) < 5e-5


@SLOW
@pytest.mark.parametrize(("stage", "offload"), [(0, False), (2, True), (3, False)])
def test_gradients_that_are_not_finite_on_one_worker_move_nothing_on_any(
    recipe, pools, tmp_path, stage, offload
):
    ours = scaled(replace(recipe, steps=3), 2, stage, offload=offload)
    first, second = pools[2].train(ours, tmp_path, poisoned=(1,))
    assert first["skipped"] == [2]
    assert apart(first["weights"], second["weights"]) == 0
    assert all(np.isfinite(weight).all() for weight in first["weights"].values())


@SLOW
def test_twenty_such_steps_in_a_row_end_the_run_on_all_workers(recipe, pools, tmp_path):
    ours = scaled(replace(recipe, steps=40, microbatch=4, save_every=40), 2, 2)
    told = pools[2].train(ours, tmp_path, poisoned=tuple(range(2, 40)))
    assert [(worker["diverged"], worker["step"]) for worker in told] == [(True, 22)] * 2


@SLOW
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("stage", [2, 3])
def test_half_precision_is_that_of_one_plain_process(recipe, pools, tmp_path, precision, stage):
    alone = replace(recipe, scale=Scale(precision=precision), steps=3)
    plain = train(alone, tmp_path / "plain")
    ours = pools[2].train(scaled(alone, 2, stage, precision=precision), tmp_path / "many")[0]
    assert ours["losses"] == pytest.approx(plain["losses"], abs=2e-3)
    assert ours["losses"] != pytest.approx(train(recipe, tmp_path / "full")["losses"][:3], abs=1e-7)


@pytest.mark.parametrize("stage", [1, pytest.param(2, marks=SLOW), pytest.param(3, marks=SLOW)])
def test_a_frozen_base_is_halved_and_in_channels_last_as_in_one_plain_process(
    pools, tmp_path, stage
):
    half = {"precision": "bf16", "channels_last": True}
    alone = replace(
        tiny(),
        data=DataSettings(path=str(write_features(tmp_path, codec="random:tiny-sd"))),
        method=MethodSettings(lora_rank=4), scale=Scale(**half),
        steps=3, batch=4, microbatch=2, log_every=1,
    )  # fmt: skip
    plain = train(alone, tmp_path / "plain")
    ours = pools[2].train(scaled(alone, 2, stage, **half), tmp_path / "many")[0]
    assert ours["frozen"] == plain["frozen"] == ["torch.bfloat16"]
    # Linear layers round twice from the first stage 3 in a process on: DeepSpeed replaces torch's.
    assert ours["losses"] == pytest.approx(plain["losses"], abs=3e-3)


@SLOW
@pytest.mark.parametrize("stage", [1, 3])
def test_trained_convolutions_in_channels_last_go_on_as_in_one_plain_process(
    recipe, pools, plain, tmp_path, stage
):
    ours = scaled(recipe, 2, stage, channels_last=True)
    parts = [pools[2].train(replace(ours, steps=end), tmp_path)[0] for end in (2, STEPS)]
    assert parts[0]["losses"] + parts[1]["losses"] == pytest.approx(plain["losses"], abs=1e-5)
    assert apart(parts[1]["weights"], plain["weights"]) < 1e-5


@SLOW
@pytest.mark.parametrize("stage", [2, 3])
def test_validation_sees_the_averaged_weights_whatever_is_shared(recipe, pools, tmp_path, stage):
    alone = train(recipe, tmp_path / "alone", scored=True)
    first = pools[2].train(scaled(recipe, 2, stage), tmp_path / "many", scored=True)[0]
    assert first["losses"] == pytest.approx(alone["losses"], abs=1e-5), "drawing changed training"
    drawn = [scores["brightness"] for scores in first["scores"] if scores]
    assert len(drawn) == 2
    assert drawn == pytest.approx([s["brightness"] for s in alone["scores"] if s], abs=1e-3)
