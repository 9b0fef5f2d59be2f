"""What a training step costs by count, what the device could do, and what it holds."""

import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from training.build import make_method
from training.data import Batches
from training.features import Prepared
from training.settings import TrainRecipe

PEAKS = {"H200": 989.4e12, "H100 PCIe": 756e12, "H100": 989.4e12, "A100": 312e12}
"""FLOP/s in dense bf16 by part of a GPU's name, the first that fits; NVIDIA's data sheets:
https://www.nvidia.com/en-us/data-center/h200/, .../h100/ (half of what is given with sparsity),
.../a100/."""


def device_name(device: torch.device) -> str:
    """Return what the device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def count_flops(recipe: TrainRecipe) -> tuple[int, int]:
    """Count what forward and backward of one sample cost, and the trained weights.

    Without memory for weights. Attention counts two products forward and four backward, however it
    is computed.
    """
    plain = replace(recipe.scale, gradient_checkpointing=False, compile=False)
    prepared = Prepared(Path(recipe.data.path))
    with torch.device("meta"):
        method: Any = make_method(replace(recipe, scale=plain), prepared)
    method.conditions.to("meta")  # what stands for nothing was read from disk
    job = Batches(prepared, prepared.split(0.0)[0][:1], replace(recipe, batch=1, microbatch=1))
    batch = {name: held.to("meta") for name, held in next(job.micro(0)).items()}
    with FlopCounterMode(display=False) as counter:
        method(batch)["loss"].backward()
    trained = sum(weight.numel() for weight in method.trainable().values())
    return counter.get_total_flops(), trained


def peak_flops(device: torch.device, half: torch.dtype | None) -> float | None:
    """Return the device's peak in FLOP/s; None for a GPU that is not in ``PEAKS``."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return next((peak for part, peak in PEAKS.items() if part in name), None)
    side = 3072
    left, right = (torch.randn(side, side, dtype=half or torch.float32) for _ in range(2))
    took = []
    for _ in range(6):
        began = time.perf_counter()
        left @ right
        took.append(time.perf_counter() - began)
    return float(2 * side**3 / min(took))


class Memory:
    """Memory that a side holds at most, in GiB: of the GPU, or of this process.

    What was there before its models were made is not counted.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.before = torch.cuda.memory_allocated() if self.cuda else _resident("VmRSS")

    def peak_gib(self, call: Callable[[], object]) -> float | None:
        """Return the highest there was during a call; None where the system does not tell."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            call()
            return (torch.cuda.max_memory_allocated() - self.before) / 2**30
        try:
            Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
        except OSError:
            call()
            return None
        call()
        return (_resident("VmHWM") - self.before) / 2**30


def _resident(key: str) -> int:
    """Return a line of /proc/self/status in bytes; 0 where there is none."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), 0)
