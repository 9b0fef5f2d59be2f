import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.bench import train_video
from tests.bench.plain_video import PlainVideoLoop
from tests.bench.train_device import count_flops
from training.build import build
from training.settings import Scale

ROOT = Path(__file__).parents[2]
TINY = train_video.SIZES["tiny"]


@pytest.fixture
def recipe(tmp_path):
    return train_video.settled(TINY, train_video.prepare(TINY, tmp_path / "features"), Scale())


def test_the_plain_loop_trains_the_same_weights_by_the_same_loss(recipe):
    """Which also says that ConsisID's weighed error of the clean video is that of the velocity."""
    loop = PlainVideoLoop(
        recipe.base, lora_rank=recipe.method.lora_rank, device=torch.device("cpu")
    )
    job = build(recipe)
    batch = next(job.batches.micro(0)) | {"drop": torch.ones(1)}
    ours = job.method.trainable()
    assert {f"network.{name}" for name in loop.trained} == set(ours)
    times = (batch["time"] * 1000).long()
    theirs = loop.loss(batch["latents"], batch["text"], batch["noise"], times)
    assert job.method(batch)["mse"].item() == pytest.approx(theirs.item(), rel=1e-4)
    before = {name: weight.detach().clone() for name, weight in loop.trained.items()}
    losses = [loop.step(batch["latents"], batch["text"]) for _ in range(2)]
    assert all(0 < loss < 10 for loss in losses)
    assert all(not torch.equal(before[name], now) for name, now in loop.trained.items())


def test_flops_counted_without_memory_are_those_of_the_method_itself(recipe):
    job = build(recipe)
    # The counter knows no other attention of CPUs.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        job.method(next(job.batches.micro(0)))["loss"].backward()
    assert counter.get_total_flops() == count_flops(recipe)[0]


def test_every_measure_that_takes_memory_away_is_planned_to(tmp_path):
    counted = train_video.count("tiny", tmp_path)
    gib = list(counted.device_gib.values())
    assert len(gib) == len(train_video.MEASURES)
    assert gib[0] > gib[1] > gib[2] > gib[3] > gib[4] > gib[5] > 0
    assert counted.host_gib["the same, offloaded"] > 0
    (row,) = list(train_video.table([counted]))[2:]
    assert row.startswith("| tiny | magic_id | 64 |")


@pytest.mark.slow
@pytest.mark.long
def test_both_loops_are_timed_side_by_side(tmp_path):
    told = subprocess.run(
        [sys.executable, "-m", "tests.bench.train", "--video", "--sizes", "tiny", "--timed", "tiny",
         "--steps", "1", "--threads", "1", "--json", tmp_path / "told.json"],
        cwd=ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    rows = json.loads((tmp_path / "told.json").read_text())["timed"]["tiny"]
    assert [row["side"] for row in rows] == list(train_video.SIDES)
    assert all(row["step_s"] > 0 and row["left_out"] == "" for row in rows)
