"""What the training benchmark runs: sizes, and the sides that take turns at equal batch."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tests.bench.plain_ip_adapter import PROMPT, PlainLoop, read_picture, write_pictures
from tests.training.conftest import write_features
from training.alone import settled
from training.build import build
from training.data import Batches
from training.engine import HALVES, Engine, PlainEngine
from training.features import Features
from training.loop import Report, ReportFile, fit
from training.nets.presets import load_vae
from training.nets.text import load_text_encoder
from training.settings import Scale, TrainRecipe

IDENTITY_DIM = 512  # ArcFace's


@dataclass(frozen=True)
class Size:
    """A recipe and what its base needs."""

    recipe: str
    reference: str
    size_px: int
    latent_px: int
    """Pixels of a picture per side of a latent's."""
    text_shape: tuple[int, int]
    pooled_dim: int = 0


SIZES = {
    "tiny": Size("tiny", "random:tiny-sd", 64, 4, (77, 32)),
    "sd15": Size("ip_adapter_faceid_sd15", "random:sd15", 512, 8, (77, 768)),
    "sdxl": Size("ip_adapter_faceid_sdxl_8xh200", "random:sdxl", 1024, 8, (77, 2048), 1280),
}


@dataclass(frozen=True)
class Step:
    """What one step took."""

    step_s: float
    data_s: float
    reporting_s: float = 0.0
    """Writing one report; recipes report every ``log_every`` steps."""


Turn = Callable[[int], list[Step]]
"""Takes so many steps, and one before them that is not counted."""


class _Enough(Exception):
    """Ends a loop without the checkpoint that an end brings."""


def settle(size: Size, features: Path, settings: list[str]) -> TrainRecipe:
    """Return the recipe of a size for one process on this machine, with settings laid over it."""
    gpu = torch.cuda.is_available()
    alone = ["scale.workers=1", "scale.zero_stage=0", f"scale.use_gpu={str(gpu).lower()}",
             "data.heldout_share=0", "steps=1000000", "save_every=1000000",
             f"base.weights={size.reference}"]  # fmt: skip
    recipe = settled(size.recipe, str(features), [*alone, *settings])
    return replace(recipe, microbatch=min(recipe.microbatch, recipe.batch))


def prepare(size: Size, folder: Path) -> Path:
    """Write features of noise, in the shapes of a size."""
    side = size.size_px // size.latent_px
    write_features(folder, shape=(4, side, side), dim=IDENTITY_DIM, text=size.text_shape,
                   pooled=size.pooled_dim, codec=size.reference)  # fmt: skip
    replace(Features.read(folder), image_px=size.size_px).write(folder)
    return folder


class EncodingBatches(Batches):
    """Encodes what others have prepared, when it is asked for, on the engine's device.

    Decoding is not in it: pictures lie in memory, so that only the encoders are measured.
    """

    def __init__(self, batches: Batches, size: Size, engine: Engine, pictures: Tensor) -> None:
        super().__init__(batches.prepared, batches.samples, batches.recipe)
        self.device, self.half, self.pictures = engine.device, engine.half, pictures
        self.vae: Any = load_vae(size.reference).requires_grad_(False).to(self.device)
        if self.half and not size.pooled_dim:  # SDXL's overflows in half precision
            self.vae.to(self.half)
        dtype = self.half or torch.float32
        self.text = load_text_encoder(size.reference, device=str(self.device), dtype=dtype)

    def micro(self, step: int, rank: int = 0, world: int = 1) -> Iterator[dict[str, Tensor]]:
        """Yield microbatches whose latents and text were made now."""
        for batch in super().micro(step, rank, world):
            pictures = self.pictures[: len(batch["latents"])].to(self.device, self.vae.dtype)
            with torch.no_grad():
                latents = self.vae.encode(pictures * 2 - 1).latent_dist.mode()
                text, pooled = self.text.encode([PROMPT] * len(pictures))
            made = {"latents": latents.float() * self.vae.config.scaling_factor,
                    "text": text.clone().float()}  # fmt: skip
            if pooled is not None:
                made["pooled"] = pooled.clone().float()
            yield batch | made


def fitting(engine: Engine, batches: Batches, recipe: TrainRecipe, out: Path) -> Turn:
    """Take steps in the loop that ``visage train`` runs."""
    out.mkdir(parents=True)
    every_step = replace(recipe, log_every=1)

    def turn(steps: int) -> list[Step]:
        taken, keep = [], ReportFile(out)

        def note(report: Report) -> None:
            began = time.perf_counter()
            keep(report)
            took_s = time.perf_counter() - began
            taken.append(_step(report, recipe, took_s))
            if report.step > steps:
                raise _Enough

        with suppress(_Enough):
            fit(engine, batches, every_step, out, note)
        return taken[1:]

    return turn


def _step(report: Report, recipe: TrainRecipe, reporting_s: float = 0.0) -> Step:
    step_s = recipe.batch / report.images_per_s
    return Step(step_s, report.data_share * step_s, reporting_s)


def plainly(loop: PlainLoop, half: torch.dtype | None) -> Turn:
    """Take steps in the plain loop."""

    def turn(steps: int) -> list[Step]:
        taken = []
        for _ in range(steps + 1):
            began = time.perf_counter()
            batch = loop.next_batch()
            read = time.perf_counter()
            loop.step(batch, half)
            taken.append(Step(time.perf_counter() - began, read - began))
        return taken[1:]

    return turn


def make_sides(
    size: Size, recipe: TrainRecipe, home: Path, wanted: list[str]
) -> Iterator[tuple[str, Turn]]:
    """Make one side after the other; each is to be warmed up before the next is made."""
    device = torch.device("cuda" if recipe.scale.use_gpu else "cpu")
    half = HALVES.get(recipe.scale.precision)
    pictures = write_pictures(home / "pictures", size.size_px, max(24, recipe.batch))
    if {"prepared", "encoded"} & set(wanted):
        job = build(recipe)
        engine = PlainEngine(job.method, recipe)
        if "prepared" in wanted:
            yield "prepared", fitting(engine, job.batches, recipe, home / "prepared")
        if "encoded" in wanted:
            held = torch.stack([read_picture(path) for path in pictures[: recipe.microbatch]])
            encoding = EncodingBatches(job.batches, size, engine, held)
            yield "encoded", fitting(engine, encoding, recipe, home / "encoded")
    if {"plain", "plain-half"} & set(wanted):
        loop = PlainLoop(
            size.reference, pictures, batch=recipe.batch, lora_rank=recipe.method.lora_rank,
            identity_dim=IDENTITY_DIM, device=device,
        )  # fmt: skip
        for name, precision in (("plain", None), ("plain-half", half)):
            if name in wanted:
                yield name, plainly(loop, precision)


def make_workers(recipe: TrainRecipe, home: Path, stack: ExitStack) -> Iterator[tuple[str, Turn]]:
    """Make the bare loop, and the same with one worker of DeepSpeed and of Ray.

    The process group and Ray live as long as ``stack``.
    """
    bare = build(recipe)
    yield "bare", fitting(PlainEngine(bare.method, recipe), bare.batches, recipe, home / "bare")
    one = replace(recipe, scale=replace(recipe.scale, zero_stage=1))
    if find_spec("deepspeed"):
        from training.zero import ZeroEngine

        stack.enter_context(_group_of_one(home, one.scale))
        zero = build(one)
        engine = ZeroEngine(zero.method, one)
        yield "zero", fitting(engine, zero.batches, one, home / "zero")
    if find_spec("deepspeed") and find_spec("ray"):
        from infra.cluster import cluster

        yield "ray", _under_ray(one, home, stack.enter_context(cluster(cpus=one.scale.threads)))


@contextmanager
def _group_of_one(home: Path, scale: Scale) -> Iterator[None]:
    """Be the only worker of a process group, as DeepSpeed needs it."""
    words = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1"}
    os.environ.update(words)
    backend = "nccl" if scale.use_gpu else "gloo"
    dist.init_process_group(backend, init_method=f"file://{home}/meeting", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
        for word in words:
            del os.environ[word]


def _under_ray(recipe: TrainRecipe, home: Path, cpus: int) -> Turn:
    """Take steps in a worker that Ray Train starts anew for each turn."""
    from training.worker import train_on_workers

    turns = itertools.count()

    def turn(steps: int) -> list[Step]:
        out = home / f"ray-{next(turns)}"
        out.mkdir()
        reports: list[Report] = []
        short = replace(recipe, steps=steps + 1, log_every=1)
        train_on_workers(short, out, cpus, reports.append)
        return [_step(report, recipe) for report in reports][1:]

    return turn
