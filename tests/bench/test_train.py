import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.bench import train
from tests.bench.plain_ip_adapter import PlainLoop, write_pictures
from tests.bench.train_device import count_flops, peak_flops
from tests.bench.train_sides import SIZES, prepare, settle
from training.build import build

ROOT = Path(__file__).parents[2]
WITHOUT = """
import sys
for absent in ("ray", "deepspeed", "mlflow"):
    sys.modules[absent] = None
from tests.bench.train import main
main()
"""


@pytest.fixture
def recipe(tmp_path):
    features = prepare(SIZES["tiny"], tmp_path / "features")
    return settle(SIZES["tiny"], features, ["batch=2", "scale.use_gpu=false"])


def test_flops_counted_without_memory_are_those_of_the_method_itself(recipe):
    job = build(recipe)
    # The counter knows no other attention of CPUs.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        job.method(next(job.batches.micro(0)))["loss"].backward()
    flops, trained = count_flops(recipe)
    assert trained == sum(weight.numel() for weight in job.method.trainable().values())
    assert counter.get_total_flops() == 2 * flops


def test_the_plain_loop_learns_and_trains_the_weights_that_the_method_trains(recipe, tmp_path):
    torch.manual_seed(0)
    loop = PlainLoop(
        "random:tiny-sd", write_pictures(tmp_path / "pictures", 64, 4), batch=4, lora_rank=0,
        identity_dim=512, device=torch.device("cpu"),
    )  # fmt: skip
    ours = build(recipe).method.trainable()
    assert {f"unet.{name}": weight.shape for name, weight in loop.trained.items()} == {
        name: weight.shape for name, weight in ours.items()
    }
    before = {name: weight.detach().clone() for name, weight in loop.trained.items()}
    losses = [loop.step(loop.next_batch()) for _ in range(3)]
    assert all(0 < loss < 10 for loss in losses)
    assert all(not torch.equal(before[name], now) for name, now in loop.trained.items())


def test_known_gpus_have_their_makers_peak_and_others_none(monkeypatch):
    names = {"NVIDIA H100 80GB HBM3": 989.4e12, "NVIDIA H100 PCIe": 756e12,
             "NVIDIA A100-SXM4-80GB": 312e12, "Another": None}  # fmt: skip
    for name, peak in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert peak_flops(torch.device("cuda"), torch.bfloat16) == peak


@pytest.mark.slow
def test_it_measures_where_there_is_neither_ray_nor_deepspeed_nor_mlflow(tmp_path):
    told = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", WITHOUT, "--batch", "2", "--steps",
         "1", "--rounds", "2", "--threads", "1", "--json", tmp_path / "told.json"],
        cwd=ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    result = json.loads((tmp_path / "told.json").read_text())
    assert [one["side"] for one in result["sides"]] == list(train.SIDES)
    assert all(len(one["each_s"]) == 2 and one["step_s"] > 0 for one in result["sides"])
    assert all(0 <= one["data_share"] < 1 for one in result["sides"])
    assert not result["left_out"]
    assert "prepared is" in told.stdout
