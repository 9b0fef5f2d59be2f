"""How fast videos are trained on, and in how much memory: ``python -m tests.bench.train --video``.

Counted, for which no memory and no GPU is needed: FLOPs of a step (forward and backward, by
``torch.utils.flop_counter`` on tensors without memory; recomputation is no work of the model's),
and what a worker's device holds under each measure, as ``training.video.plan`` plans it.

Timed, by turns in one process at equal batch, on random weights: ``ours``, the loop of ``visage
train`` with the LoRA of ``magic_id``; ``plain``, the script of diffusers (``plain_video``) with the
same LoRA; each without and with gradient checkpointing. Sizes other than ``tiny`` are timed where
there is a GPU. What does not fit is left out, and said.

Sizes are of 49 frames of 480 x 720 px, CogVideoX's own, but for ``tiny``.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from infra.cluster import usable_cpus
from tests.bench.plain_video import PlainVideoLoop
from tests.bench.train_device import Memory, count_flops, device_name, peak_flops
from tests.bench.train_sides import Step, Turn, fitting
from training.build import build
from training.engine import HALVES, PlainEngine
from training.features import EMPTY_FILE, Features, Prepared, write_index
from training.recipes import RECIPES
from training.settings import LossSettings, Scale, TrainRecipe
from training.video.plan import plan_video

SIDES = ("ours", "ours, checkpointed", "plain", "plain, checkpointed")
MEASURES: dict[str, dict[str, object]] = {
    "float32": {"precision": "fp32"},
    "bf16": {"precision": "bf16"},
    "bf16, checkpointed": {"precision": "bf16", "gradient_checkpointing": True},
    "the same, ZeRO 2 on 8": {
        "precision": "bf16", "gradient_checkpointing": True, "workers": 8, "zero_stage": 2,
    },
    "the same, ZeRO 3 on 8": {
        "precision": "bf16", "gradient_checkpointing": True, "workers": 8, "zero_stage": 3,
    },
    "the same, offloaded": {
        "precision": "bf16", "gradient_checkpointing": True, "workers": 8, "zero_stage": 3,
        "offload": True,
    },
}  # fmt: skip
"""Settings of ``scale``, each of which is planned."""


@dataclass(frozen=True)
class VideoSize:
    """A recipe on a base, and what is prepared for it."""

    recipe: str
    reference: str
    latent_shape: tuple[int, int, int]
    latent_frames: int
    text_shape: tuple[int, int]
    snr_shift: float


_OWN, _T5 = (16, 60, 90), (226, 4096)
_LORA = "magic_id_cogvideox_2b"
SIZES = {
    "tiny": VideoSize(_LORA, "random:tiny-cogvideox", (4, 8, 8), 3, (16, 32), 3.0),
    "2b": VideoSize(_LORA, "random:cogvideox-2b", _OWN, 13, _T5, 3.0),
    "5b": VideoSize(_LORA, "random:cogvideox-5b", _OWN, 13, _T5, 1.0),
    "5b-consis_id": VideoSize(
        "consis_id_cogvideox_5b_8xh200", "random:cogvideox-5b-i2v", _OWN, 13, _T5, 1.0
    ),
    "5b-consis_id-local": VideoSize(
        "consis_id_local_cogvideox_5b", "random:cogvideox-5b-i2v", _OWN, 13, _T5, 1.0
    ),
}


@dataclass(frozen=True)
class Counted:
    """A size, by count."""

    size: str
    kind: str
    tokens: int | None
    parameters: int | None
    trained: int
    flops: int
    """Of one video, forward and backward."""
    device_gib: dict[str, float]
    """By measure, for one video per worker."""
    host_gib: dict[str, float]


@dataclass(frozen=True)
class Timed:
    """One side."""

    side: str
    step_s: float
    fastest_s: float
    steps: int
    mfu: float | None
    peak_gib: float | None
    left_out: str = ""


def prepare(size: VideoSize, folder: Path, samples: int = 2) -> Path:
    """Write features of noise, in the shapes of a size."""
    (folder / "shards").mkdir(parents=True)
    channels, rows, columns = size.latent_shape
    clip_frames, each_px = 4 * (size.latent_frames - 1) + 1, 8
    told = Features(
        corpus="noise", image_px=round((rows * columns) ** 0.5 * each_px), codec=size.reference,
        latent_shape=size.latent_shape, text_shape=size.text_shape, identity_dim=512,
        embedder="noise@0", backend="dlib", identity_mean=(0.0,) * 512, identity_std=(1.0,) * 512,
        frames=size.latent_frames, clip_frames=clip_frames, fps=8.0, text_encoder=size.reference,
        face_states_shape=(5, 577, 1024), face_pooled_dim=768, face_encoder="random:eva",
    )  # fmt: skip
    shapes = {
        "latents": (channels, size.latent_frames, rows, columns), "text": size.text_shape,
        "identity": (512,), "mask": (size.latent_frames, rows, columns),
        "motion": (size.latent_frames, rows, columns), "landmarks": (size.latent_frames, 5, 2),
        "seen": (size.latent_frames,), "reference_latents": size.latent_shape,
        "face_states": (5, 577, 1024), "face_pooled": (768,),
    }  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    made = {n: torch.randn(samples, *s, generator=rng).half() for n, s in shapes.items()}
    save_file(made, folder / "shards/shard-00000.safetensors")
    save_file({"text": torch.zeros(size.text_shape).half()}, folder / EMPTY_FILE)
    write_index(folder, [{"id": f"{n:04d}", "person": "p0", "caption": "", "shard": 0, "row": n}
                         for n in range(samples)])  # fmt: skip
    told.write(folder)
    return folder


def settled(size: VideoSize, features: Path, scale: Scale, **changes: object) -> TrainRecipe:
    """Return the recipe of a size for these features; of pairs, the winner's error alone."""
    made = RECIPES[size.recipe]()
    losses = LossSettings() if made.losses.dpo else made.losses
    base = replace(made.base, weights=size.reference, snr_shift=size.snr_shift)
    how = {"losses": losses, "batch": scale.workers, "microbatch": 1, "steps": 1_000_000}
    how |= {"save_every": 1_000_000} | changes
    data = replace(made.data, path=str(features), heldout_share=0.0)
    return replace(made, base=base, data=data, scale=scale, **how)  # type: ignore[arg-type]


def count(name: str, home: Path) -> Counted:
    """Count a size."""
    size = SIZES[name]
    features = prepare(size, home / f"features-{name}")
    prepared = Prepared(features)
    flops, trained = count_flops(settled(size, features, Scale()))
    device, host, tokens, parameters = {}, {}, None, None
    for measure, scale in MEASURES.items():
        recipe = settled(size, features, Scale(**scale))  # type: ignore[arg-type]
        if (plan := plan_video(recipe, prepared)) is not None:
            device[measure] = plan.device_bytes / 2**30
            host[measure] = plan.host_bytes / 2**30
            tokens, parameters = plan.tokens, plan.parameters
        sys.stderr.write(f"{name}: {measure} is planned\n")
    kind = RECIPES[size.recipe]().method.kind
    return Counted(name, kind, tokens, parameters, trained, flops, device, host)


def sides(
    size: VideoSize, features: Path, home: Path, wanted: tuple[str, ...], batch: int, half: str
) -> Iterator[tuple[str, Turn]]:
    """Make one side after the other; each is to be measured before the next is made."""
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    for side in wanted:
        checkpointed = side.endswith("checkpointed")
        scale = Scale(use_gpu=gpu, precision=half, gradient_checkpointing=checkpointed)  # type: ignore[arg-type]
        recipe = settled(size, features, scale, batch=batch, microbatch=batch)
        if side.startswith("ours"):
            job = build(recipe)
            engine = PlainEngine(job.method, recipe)
            yield side, fitting(engine, job.batches, recipe, home / side.replace(", ", "-"))
            continue
        loop = PlainVideoLoop(
            recipe.base, lora_rank=recipe.method.lora_rank, device=device, half=HALVES.get(half),
            checkpointed=checkpointed,
        )  # fmt: skip
        yield side, _plainly(loop, Prepared(features), batch)


def _plainly(loop: PlainVideoLoop, prepared: Prepared, batch: int) -> Turn:
    rows = np.arange(batch) % len(prepared)
    latents, text = (prepared.read(name, rows) for name in ("latents", "text"))

    def turn(steps: int) -> list[Step]:
        taken = []
        for _ in range(steps + 1):
            began = time.perf_counter()
            loop.step(latents, text)
            taken.append(Step(time.perf_counter() - began, 0.0))
        return taken[1:]

    return turn


def measure(
    name: str, home: Path, *, wanted: tuple[str, ...], steps: int, batch: int, half: str, flops: int
) -> list[Timed]:
    """Let each side take its steps, one side in memory at a time."""
    size = SIZES[name]
    features = prepare(size, home / f"timed-{name}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak, told = peak_flops(device, HALVES.get(half)), []
    for side in wanted:
        memory, taken, gib = Memory(device), list[Step](), None
        try:
            ((_, turn),) = sides(size, features, home, (side,), batch, half)
            gib = memory.peak_gib(lambda turn=turn: turn(1))
            taken = turn(steps)
        except torch.OutOfMemoryError:
            told.append(Timed(side, 0.0, 0.0, 0, None, gib, "does not fit"))
            continue
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()
        each_s = [step.step_s for step in taken]
        step_s = statistics.median(each_s)
        mfu = flops * batch / step_s / peak if peak else None
        told.append(Timed(side, step_s, min(each_s), steps, mfu, gib))
        sys.stderr.write(f"{side}: {step_s:.3f} s\n")
    return told


def table(counted: list[Counted]) -> Iterator[str]:
    """Yield the lines of what was counted, as Markdown."""
    first = ("size", "method", "tokens", "M weights", "M trained", "TFLOP a video")
    yield f"| {' | '.join((*first, *MEASURES))} |"
    yield f"|---|---|{'---:|' * (len(first) + len(MEASURES) - 2)}"
    for one in counted:
        tokens = "" if one.tokens is None else f"{one.tokens:,}"
        weights = "" if one.parameters is None else f"{one.parameters / 1e6:,.1f}"
        gib = [
            f"{one.device_gib[m]:.2f}" + (f" + {one.host_gib[m]:.2f}" if one.host_gib[m] else "")
            if m in one.device_gib else "?"
            for m in MEASURES
        ]  # fmt: skip
        yield (f"| {one.size} | {one.kind} | {tokens} | {weights} | {one.trained / 1e6:,.3g} | "
               f"{one.flops / 1e12:,.4g} | {' | '.join(gib)} |")  # fmt: skip


def main(told: list[str]) -> None:
    """Count, measure and print."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--video", action="store_true", required=True)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=tuple(SIZES))
    parser.add_argument("--timed", nargs="*", choices=("tiny", "2b", "5b"),
                        default=("tiny", "2b", "5b") if gpu else ("tiny",))  # fmt: skip
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16" if gpu else "fp32")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    asked = parser.parse_args(told)
    asked.sizes = list(dict.fromkeys([*asked.sizes, *asked.timed]))
    torch.set_num_threads(asked.threads)
    device = torch.device("cuda" if gpu else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        counted = [count(name, home) for name in asked.sizes]
        print("GiB of a worker's device, one video each, as planned; + of the CPU's memory:")
        print("\n".join(table(counted)))
        flops = {one.size: one.flops for one in counted}
        timed = {
            name: measure(
                name, home, wanted=tuple(asked.sides), steps=asked.steps, batch=asked.batch,
                half=asked.precision, flops=flops[name],
            )
            for name in asked.timed
        }  # fmt: skip
    for name, rows in timed.items():
        print(f"\n{name}, batch {asked.batch}, {asked.precision}, {device_name(device)}, "
              f"{asked.threads} threads")  # fmt: skip
        print(f"{'side':22}{'s/step':>9}{'fastest':>9}{'MFU %':>7}{'GiB':>8}")
        for one in rows:
            mfu = "" if one.mfu is None else f"{100 * one.mfu:.1f}"
            gib = "" if one.peak_gib is None else f"{one.peak_gib:.2f}"
            print(f"{one.side:22}{one.step_s:9.4f}{one.fastest_s:9.4f}{mfu:>7}{gib:>8} "
                  f"{one.left_out}")  # fmt: skip
    if asked.json:
        rows_of = {name: [asdict(one) for one in rows] for name, rows in timed.items()}
        held = {"counted": [asdict(one) for one in counted], "timed": rows_of}
        asked.json.write_text(json.dumps(held, indent=2) + "\n")
