"""What a training step of each method costs: ``python -m tests.bench.methods``.

Every kind of method by its own recipe, on one base of true size with random weights, one process
each, so that memory is that method's alone. All have the same batch and the same pictures; nothing
is recomputed to save memory.

Time and memory are also given relative to plain IP-Adapter-FaceID (no LoRA). Its process stays, and
takes its steps by turns with each method's: one before each, and one after the last. So the load of
a machine that others use is that of both, and a ratio is of the fastest steps on either side.

On a CPU pictures are small (``--px``): that shrinks what depends on them, and leaves what depends
on weights. Memory is the process' highest, libraries included; on a GPU what torch allocated. What
would not fit beside others' work is left out, and said.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from tests.bench.turns import Failed, Side
from training.build import METHODS
from training.recipes import RECIPES
from training.settings import Scale, TrainRecipe

PLAIN = "plain"
TEXT = {"tiny-sd": (77, 32), "tiny-sdxl": (77, 32), "sd15": (77, 768), "sdxl": (77, 2048)}
POOLED = {"tiny-sdxl": 32, "sdxl": 1280}
CLIP = {"tiny-sd": ("random:tiny-clip", (17, 32)), "tiny-sdxl": ("random:tiny-clip", (17, 32))}
CLIP_H = ("random:clip-h", (257, 1280))
UNFIT = dict.fromkeys(
    ("id_animator", "consis_id", "proteus_id", "personal_video", "magic_id"),
    "its base draws videos: `python -m tests.bench.train --video`",
)
"""Kinds that have no place in the table, and why."""
OWN = {"base": "lfw64"}
"""Kinds that have a network of their own, on no base, by the recipe that says which."""
PAINTS = ("pva",)
"""Kinds whose base is told of a hole too."""
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
    plain_s: float = 0.0
    """The fastest step of the plain adapter, of those taken by turns with this method's."""
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
    if kind in OWN:
        return RECIPES[OWN[kind]]()
    made = [make() for make in RECIPES.values()]
    weights = ("",) if kind in PAINTS else _TRUE
    true = [r for r in made if r.method.kind == kind and r.base.weights in weights]
    true.sort(key=lambda recipe: recipe.base.weights != f"random:{base}")
    if not true:
        raise KeyError(kind)
    return true[0]


def settled(kind: str, base: str, batch: int, device: str, threads: int) -> tuple[TrainRecipe, str]:
    """Fit a recipe to one process; return it, and what there is to say of that."""
    recipe, without = recipe_of(kind, base), ""
    if kind in OWN:
        without, weights = "a small network of its own, on no base", recipe.base.weights
    else:
        weights = f"random:{inpainting(base) if kind in PAINTS else base}"
    losses = recipe.losses
    if losses.identity:
        losses, without = replace(losses, identity=0.0), "without its identity loss"
    scale = Scale(use_gpu=device == "cuda", precision="bf16", threads=threads)
    data = replace(recipe.data, heldout_share=0.0)
    if recipe.method.per_subject:
        data = replace(data, subject="p0")
    return replace(
        recipe, data=data, losses=losses, scale=scale, batch=batch, microbatch=batch,
        base=replace(recipe.base, weights=weights), steps=1_000_000, save_every=1_000_000,
    ), without  # fmt: skip


def inpainting(base: str) -> str:
    """Make a preset of a base that is told the hole and what is around it; return its name."""
    from training.nets.presets import UNETS

    name = f"{base}-inpainting"
    UNETS[name] = {**UNETS[base], "in_channels": 9}
    return name


class _Enough(Exception):
    """Ends a loop without the checkpoint that an end brings."""


def take_steps(kind: str, base: str, *, px: int, batch: int, device: str, threads: int) -> None:
    """Take a step of one method, and another for each line that comes in; nothing else runs here.

    Tells a line of JSON for each step, its seconds, and at the end the rest of its ``Cost``.
    """
    import torch

    from tests.bench.train_device import _resident
    from tests.bench.train_sides import IDENTITY_DIM
    from tests.training.conftest import write_features
    from training.build import build
    from training.engine import PlainEngine
    from training.features import Features
    from training.loop import Report, fit

    answers = sys.stdout
    torch.set_num_threads(threads)
    recipe, without = settled(kind, base, batch, device, threads)
    encoder, shape = CLIP.get(base, CLIP_H)
    side = px // (4 if base.startswith("tiny") else 8)

    def tell(**what: float | str) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    def note(report: Report) -> None:
        tell(step_s=recipe.batch / report.images_per_s)
        if not sys.stdin.readline():
            raise _Enough

    # Libraries that print would speak between.
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        features = write_features(
            Path(folder) / "features", shape=(4, side, side), dim=IDENTITY_DIM, text=TEXT[base],
            pooled=POOLED.get(base, 0), codec=f"random:{base}",
            image=shape if recipe.method.takes_image else (0, 0),
        )  # fmt: skip
        told = replace(Features.read(features), image_px=px, text_encoder=f"random:{base}",
                       image_encoder=encoder)  # fmt: skip
        told.write(features)
        data = replace(recipe.data, path=str(features))
        recipe = replace(recipe, data=data, log_every=1)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        job = build(recipe)
        trained = sum(weight.numel() for weight in job.method.trainable().values())
        with suppress(_Enough):
            fit(PlainEngine(job.method, recipe), job.batches, recipe, Path(folder) / "run", note)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else _resident("VmHWM")
    tell(trained=trained, peak_gib=peak / 2**30, left_out=without)


@contextmanager
def side(kind: str, asked: argparse.Namespace) -> Iterator[Side]:
    """Have a method's process for a while, after the step that does not count."""
    words = ["--base", asked.base, "--px", asked.px, "--batch", asked.batch,
             "--device", asked.device, "--threads", asked.threads, "--one", kind]  # fmt: skip
    command = [sys.executable, "-m", "tests.bench.methods", *map(str, words)]
    made = Side(command, os.environ | {"OMP_NUM_THREADS": str(asked.threads)}, asked.limit_s)
    try:
        made.begin()
        yield made
    finally:
        made.close()


def cost(kind: str, made: Side, plain_s: float) -> Cost:
    """End a method's process, and return what its steps cost."""
    each_s, rest = made.each_s, made.end()
    return Cost(kind, step_s=median(each_s), fastest_s=min(each_s), plain_s=plain_s, **rest)


def measure(kind: str, asked: argparse.Namespace, plain: Side) -> Cost:
    """Measure one method by turns with the plain adapter, or say why not.

    Raises:
        Failed: The plain adapter's process did.
    """
    try:
        recipe_of(kind, asked.base)
    except KeyError:
        return Cost(kind, left_out=UNFIT.get(kind, "it has no recipe on a base of true size"))
    if asked.device == "cpu" and (why := too_large(kind, asked.base)):
        return Cost(kind, left_out=why)
    beside_s = []
    try:
        with side(kind, asked) as made:
            for _ in range(asked.steps):
                beside_s.append(plain.step())
                made.step()
            beside_s.append(plain.step())
            return cost(kind, made, min(beside_s))
    except Failed as error:
        if plain.ended:
            raise
        return Cost(kind, left_out=str(error))


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
    plain_gib = next(cost.peak_gib for cost in costs if cost.kind == PLAIN)
    yield "| method | trained, M | s per step | fastest | plain | x plain | peak GiB | x plain | |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---|"
    for cost in costs:
        if not cost.step_s:
            yield f"| {cost.kind} | | | | | | | | left out: {cost.left_out} |"
            continue
        yield (
            f"| {cost.kind} | {cost.trained / 1e6:.1f} | {cost.step_s:.2f} | {cost.fastest_s:.2f} "
            f"| {cost.plain_s:.2f} | {cost.fastest_s / cost.plain_s:.2f} | {cost.peak_gib:.2f} "
            f"| {cost.peak_gib / plain_gib:.2f} | {cost.left_out} |"
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
    parser.add_argument(
        "--limit-s", type=float, default=_LIMIT_S, help="seconds for a start or a step"
    )
    parser.add_argument("--only", nargs="+", choices=tuple(METHODS), default=tuple(METHODS))
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    parser.add_argument("--one", choices=(PLAIN, *METHODS), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        take_steps(
            asked.one, asked.base, px=asked.px, batch=asked.batch, device=asked.device,
            threads=asked.threads,
        )  # fmt: skip
        return
    began, load = datetime.now(UTC), os.getloadavg()[0]
    costs: list[Cost] = []
    with side(PLAIN, asked) as plain:
        for kind in asked.only:
            costs.append(measure(kind, asked, plain))
            sys.stderr.write(f"{costs[-1]}\n")
        plain.step()
        costs.insert(0, cost(PLAIN, plain, min(plain.each_s)))
    print(f"{asked.base}, {asked.px} px, batch {asked.batch}, bf16, {asked.steps} steps each, "
          f"{asked.device}, {asked.threads} threads, {began.isoformat(timespec='minutes')}, load "
          f"{load:.1f} before and {os.getloadavg()[0]:.1f} after")  # fmt: skip
    print("\n".join(table(costs)))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=2) + "\n")


if __name__ == "__main__":
    main()
