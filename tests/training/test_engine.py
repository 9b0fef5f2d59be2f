"""What engines share, where the loop's own tests do not show it."""

import os
import shutil
from dataclasses import replace

import pytest
import torch

from tests.training.conftest import noise_features, write_features
from tests.training.many import apart, train
from training.build import build
from training.engine import Average, PlainEngine
from training.group import Group
from training.loop import fit
from training.recipes import lfw64, tiny
from training.settings import DataSettings, MethodSettings, OptimiserSettings, Scale


def test_one_process_is_a_group_of_its_own():
    alone, values = Group(torch.device("cpu")), torch.tensor([1.0, 2.0])
    alone.barrier()
    assert (alone.rank, alone.world, alone.leads, alone.most(3)) == (0, 1, True, 3)
    assert alone.mean(values).equal(values)


def test_an_average_is_taken_back_also_where_the_block_fails():
    weight = torch.nn.Parameter(torch.ones(2))
    average = Average({"w": weight}, decay=0.9)
    with torch.no_grad():
        weight.fill_(3.0)
    with pytest.raises(AssertionError, match="the average"), average.swapped():
        assert weight.tolist() == [3.0, 3.0], "the average is there"
    assert weight.tolist() == [3.0, 3.0]


def test_in_bf16_the_frozen_base_is_halved_and_the_losses_stay_near(tmp_path):
    folder = write_features(tmp_path, codec="random:tiny-sd")
    data = DataSettings(path=str(folder), heldout_share=0.0)
    whole = replace(tiny(), data=data, batch=4, microbatch=4, method=MethodSettings(lora_rank=4))
    losses = {}
    for precision in ("fp32", "bf16"):
        job = build(replace(whole, scale=Scale(precision=precision)))
        engine = PlainEngine(job.method, job.batches.recipe)
        (batch,) = job.batches.micro(0)
        losses[precision] = float(engine.micro(batch, 1.0)["loss"])
        assert not engine.step().skipped
        held = dict(job.method.named_parameters())
        frozen = {w.dtype for n, w in held.items() if n.startswith("unet.") and not w.requires_grad}
        assert frozen == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert {w.dtype for w in engine.weights.values()} == {torch.float32}
        assert all(w.grad is None for n, w in held.items() if n not in engine.weights)
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


@pytest.fixture
def recipe(tmp_path):
    """A small network, all of which is trained."""
    return replace(
        lfw64(),
        data=DataSettings(path=str(noise_features(tmp_path)), heldout_share=0.0),
        method=MethodSettings(kind="base", width=32, identity_norm="standard"),
        optimiser=OptimiserSettings(learning_rate=2e-3, ema_decay=0.9),
        scale=Scale(), steps=4, batch=4, microbatch=4, save_every=2, log_every=1,
    )  # fmt: skip


def test_trained_convolutions_in_channels_last_go_on_as_if_undisturbed(recipe, tmp_path):
    # Offloaded, which one plain process does not know, asks for the fused AdamW of GPUs.
    recipe = replace(recipe, scale=Scale(channels_last=True, zero_stage=1, offload=True))

    def losses(out, steps=4):
        job, reports = build(recipe), []
        engine = PlainEngine(job.method, recipe)
        assert engine.optimiser.defaults["fused"]
        assert any(not weight.is_contiguous() for weight in engine.weights.values())
        fit(engine, job.batches, replace(recipe, steps=steps), out, reports.append)
        return [report.losses["loss"] for report in reports]

    whole = losses(tmp_path / "whole")
    assert losses(tmp_path / "run", 2) + losses(tmp_path / "run") == pytest.approx(whole, abs=1e-6)


@pytest.mark.long
@pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "g++")), reason="compiling for a CPU needs g++ or CXX"
)
@pytest.mark.filterwarnings("ignore")  # torch warns of itself, and fails where that is an error
def test_compiled_blocks_train_as_those_that_are_not(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    plain = train(recipe, tmp_path / "plain")
    before = compiled_graphs()
    ours = train(replace(recipe, scale=Scale(compile=True)), tmp_path / "compiled")
    assert compiled_graphs() > before, "nothing was compiled"
    assert ours["losses"] == pytest.approx(plain["losses"], abs=1e-5)
    assert ours["norms"] == pytest.approx(plain["norms"], rel=1e-3)
    assert apart(ours["weights"], plain["weights"]) < 1e-4


def compiled_graphs():
    """Count what inductor has compiled in this process."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]
