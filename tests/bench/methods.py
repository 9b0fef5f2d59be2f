"""What a training step of each method costs: ``python -m tests.bench.methods``.

Every kind of method by its own recipe, on one base of true size with random weights, one process
each, so that memory is that method's alone. All have the same batch and the same pictures; nothing
is recomputed to save memory. Time and memory are also given relative to plain IP-Adapter-FaceID
(no LoRA), which is measured first.

On a CPU pictures are small (``--px``): that shrinks what depends on them, and leaves what depends
on weights. Memory is the process' highest, libraries included; on a GPU what torch allocated. What
would not fit beside others' work is left out, and said. Ratios are of the fastest steps: on a
machine that others use, these say most.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from training.build import METHODS
from training.recipes import RECIPES
from training.settings import Scale, TrainRecipe

PLAIN = "plain"
TEXT = {"tiny-sd": (77, 32), "tiny-sdxl": (77, 32), "sd15": (77, 768), "sdxl": (77, 2048)}
POOLED = {"tiny-sdxl": 32, "sdxl": 1280}
CLIP = {"tiny-sd": ("random:tiny-clip", (17, 32)), "tiny-sdxl": ("random:tiny-clip", (17, 32))}
CLIP_H = ("random:clip-h", (257, 1280))
UNFIT = {
    "base": "it learns a small network of its own, on no base",
    "pva": "its base is one for inpainting, of which there is no preset",
} | dict.fromkeys(
    ("id_animator", "consis_id", "proteus_id", "personal_video", "magic_id"),
    "its base draws videos: `python -m tests.bench.train --video`",
)
"""Kinds that have no place in the table, and why."""
_TRAINED_WHOLE = ("arc2face",)
_BYTES_PER_TRAINED, _BYTES_PER_FROZEN = 16, 4
_TEXT_ENCODER = 1.15  # weights of Stable Diffusion 1.5's UNet and text encoder over the UNet's
_LIMIT_S = 600
_TRUE = ("random:sd15", "random:sdxl")


@dataclass(frozen=True)
class Cost:
    """What one method costs."""

    kind: str
    trained: int = 0
    step_s: float = 0.0
    fastest_s: float = 0.0
    peak_gib: float = 0.0
    left_out: str = ""
    """Why it was not measured; or, of one that was, what of its recipe was taken away."""


def recipe_of(kind: str, base: str) -> TrainRecipe:
    """Return the recipe of a kind for this base: the published one on it, or else another's.

    Raises:
        KeyError: There is none.
    """
    if kind == PLAIN:
        plain = RECIPES["ip_adapter_faceid_sd15"]()
        return replace(plain, name=PLAIN, method=replace(plain.method, lora_rank=0))
    made = [make() for make in RECIPES.values()]
    true = [r for r in made if r.method.kind == kind and r.base.weights in _TRUE]
    true.sort(key=lambda recipe: recipe.base.weights != f"random:{base}")
    if not true:
        raise KeyError(kind)
    return true[0]


def settled(kind: str, base: str, batch: int, device: str, threads: int) -> tuple[TrainRecipe, str]:
    """Fit a recipe to one process; return it, and what was taken away from it."""
    recipe, without = recipe_of(kind, base), ""
    losses = recipe.losses
    if losses.identity:
        losses, without = replace(losses, identity=0.0), "without its identity loss"
    scale = Scale(use_gpu=device == "cuda", precision="bf16", threads=threads)
    data = replace(recipe.data, heldout_share=0.0)
    if recipe.method.per_subject:
        data = replace(data, subject="p0")
    return replace(
        recipe, data=data, losses=losses, scale=scale, batch=batch, microbatch=batch,
        base=replace(recipe.base, weights=f"random:{base}"), steps=1_000_000, save_every=1_000_000,
    ), without  # fmt: skip


def measure_one(
    kind: str, base: str, *, px: int, batch: int, steps: int, device: str, threads: int
) -> Cost:
    """Take steps with one method, in this process; nothing else should have run in it."""
    import torch

    from tests.bench.train_device import _resident
    from tests.bench.train_sides import IDENTITY_DIM, fitting
    from tests.training.conftest import write_features
    from training.build import build
    from training.engine import PlainEngine
    from training.features import Features

    torch.set_num_threads(threads)
    recipe, without = settled(kind, base, batch, device, threads)
    encoder, shape = CLIP.get(base, CLIP_H)
    side = px // (4 if base.startswith("tiny") else 8)
    with tempfile.TemporaryDirectory() as folder:
        features = write_features(
            Path(folder) / "features", shape=(4, side, side), dim=IDENTITY_DIM, text=TEXT[base],
            pooled=POOLED.get(base, 0), codec=f"random:{base}",
            image=shape if recipe.method.takes_image else (0, 0),
        )  # fmt: skip
        told = replace(Features.read(features), image_px=px, text_encoder=f"random:{base}",
                       image_encoder=encoder)  # fmt: skip
        told.write(features)
        recipe = replace(recipe, data=replace(recipe.data, path=str(features)))
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        job = build(recipe)
        trained = sum(weight.numel() for weight in job.method.trainable().values())
        turn = fitting(PlainEngine(job.method, recipe), job.batches, recipe, Path(folder) / "run")
        each_s = [step.step_s for step in turn(steps)]
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else _resident("VmHWM")
    return Cost(kind, trained, statistics.median(each_s), min(each_s), peak / 2**30, without)


def measure(kind: str, asked: argparse.Namespace) -> Cost:
    """Measure one method in a process of its own, or say why not."""
    try:
        recipe_of(kind, asked.base)
    except KeyError:
        return Cost(kind, left_out=UNFIT.get(kind, "it has no recipe on a base of true size"))
    words = ["--base", asked.base, "--px", asked.px, "--batch", asked.batch, "--steps", asked.steps,
             "--device", asked.device, "--threads", asked.threads, "--one", kind]  # fmt: skip
    if asked.device == "cpu" and (why := too_large(kind, asked.base)):
        return Cost(kind, left_out=why)
    environment = os.environ | {"OMP_NUM_THREADS": str(asked.threads)}
    try:
        told = subprocess.run(
            [sys.executable, "-m", "tests.bench.methods", *map(str, words)],
            capture_output=True, text=True, timeout=asked.limit_s, check=False, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Cost(kind, left_out=f"it took longer than {asked.limit_s:g} s")
    if told.returncode:
        lines = told.stderr.strip().splitlines() or [f"it ended with {told.returncode}"]
        return Cost(kind, left_out=lines[-1][:160])
    return Cost(**json.loads(told.stdout.splitlines()[-1]))


def too_large(kind: str, base: str) -> str:
    """Say that a method that trains all of its base does not fit; empty, where it may."""
    from training.nets.presets import count_parameters

    whole = count_parameters(f"random:{base}") * _TEXT_ENCODER
    each = _BYTES_PER_TRAINED if kind in _TRAINED_WHOLE else _BYTES_PER_FROZEN
    needed, free = whole * each / 2**30, available_gib()
    if needed < 0.8 * free:
        return ""
    return f"its weights and what AdamW keeps of them take {needed:.1f} GiB, {free:.1f} are free"


def available_gib() -> float:
    """Return how much memory may be asked for without others losing theirs."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) / 2**20
    return 0.0


def table(costs: list[Cost]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    plain = next((cost for cost in costs if cost.kind == PLAIN and cost.step_s), None)
    yield "| method | trained, M | s per step | fastest | x plain | peak GiB | x plain | |"
    yield "|---|---:|---:|---:|---:|---:|---:|---|"
    for cost in costs:
        if not cost.step_s:
            yield f"| {cost.kind} | | | | | | | left out: {cost.left_out} |"
            continue
        slower = f"{cost.fastest_s / plain.fastest_s:.2f}" if plain else ""
        larger = f"{cost.peak_gib / plain.peak_gib:.2f}" if plain else ""
        yield (
            f"| {cost.kind} | {cost.trained / 1e6:.1f} | {cost.step_s:.2f} | {cost.fastest_s:.2f} "
            f"| {slower} | {cost.peak_gib:.2f} | {larger} | {cost.left_out} |"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--base", choices=TEXT, default="sd15")
    parser.add_argument("--px", type=int, default=128, help="side of the pictures")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2, help="that count, after one that does not")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit-s", type=float, default=_LIMIT_S, help="seconds per method")
    parser.add_argument("--only", nargs="+", choices=tuple(METHODS), default=tuple(METHODS))
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    parser.add_argument("--one", choices=(PLAIN, *METHODS), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        cost = measure_one(
            asked.one, asked.base, px=asked.px, batch=asked.batch, steps=asked.steps,
            device=asked.device, threads=asked.threads,
        )  # fmt: skip
        print(json.dumps(asdict(cost)))
        return
    began, load = datetime.now(UTC), os.getloadavg()[0]
    costs: list[Cost] = []
    for kind in (PLAIN, *asked.only):
        costs.append(measure(kind, asked))
        sys.stderr.write(f"{costs[-1]}\n")
    print(f"{asked.base}, {asked.px} px, batch {asked.batch}, bf16, {asked.steps} steps each, "
          f"{asked.device}, {asked.threads} threads, {began.isoformat(timespec='minutes')}, load "
          f"{load:.1f} before and {os.getloadavg()[0]:.1f} after")  # fmt: skip
    print("\n".join(table(costs)))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=2) + "\n")


if __name__ == "__main__":
    main()
