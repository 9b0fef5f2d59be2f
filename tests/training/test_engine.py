"""What engines share, where the loop's own tests do not show it."""

from dataclasses import replace

import pytest
import torch

from tests.training.conftest import write_features
from training.build import build
from training.engine import Average, PlainEngine
from training.group import Group
from training.recipes import tiny
from training.settings import DataSettings, MethodSettings, Scale


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
