"""How fast the generator is: ``python -m tests.bench.serve_generator``.

Side by side in one go, with a tiny model of random weights at 64 px and the same threads:

* 16 adapters asked for in turn against one adapter, request by request;
* eight clients at once through the batcher against one request at a time through a plain
  ``StableDiffusionPipeline`` with ``load_ip_adapter``, whose prompts are encoded beforehand.

Each number is the median over rounds, and both sides of a ratio take turns within a round.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from serving.images import LocalImages
from serving.recipes import ImageSettings, ServeRecipe
from serving.types import Draw, Reference
from tests.serving.conftest import DIM, EMBEDDER, tiny_export
from training.nets.presets import load_unet, load_vae
from training.nets.text import load_text_encoder

SIDE_PX = 64


@dataclass(frozen=True)
class Speed:
    """Pictures per second."""

    one_adapter: float
    sixteen_adapters: float
    plain_loop: float
    one_client: float
    eight_clients: float

    @property
    def switching(self) -> float:
        """Share of throughput that is left when every request asks for another adapter."""
        return self.sixteen_adapters / self.one_adapter

    @property
    def ratio(self) -> float:
        """How many times faster eight clients are served than the plain loop serves one."""
        return self.eight_clients / self.plain_loop


def measure(*, requests: int = 32, steps: int = 20, rounds: int = 3, threads: int = 1) -> Speed:
    """Draw ``requests`` pictures each way, ``rounds`` times."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as home:
        exports = [tiny_export(Path(home) / str(seed), seed=seed) for seed in range(16)]
        names = tuple(f"file:{export}" for export in exports)
        recipe = ServeRecipe(
            name="bench", model=names[0], adapters=names, images=ImageSettings(threads=threads)
        )
        return asyncio.run(_measure(recipe, exports[0], requests, steps, rounds))


async def _measure(
    recipe: ServeRecipe, export: Path, requests: int, steps: int, rounds: int
) -> Speed:
    images, plain = LocalImages(recipe), _plain(export, steps)
    for name in recipe.adapters:
        await images.draw(_ask(0, steps, name))  # so that all are held
    plain()
    seen: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, took_s in (
            ("one_adapter", await _in_turn(images, recipe.adapters[:1], requests, steps)),
            ("sixteen_adapters", await _in_turn(images, recipe.adapters, requests, steps)),
            ("plain_loop", _timed(plain, requests)),
            ("one_client", await _clients(images, 1, requests, steps)),
            ("eight_clients", await _clients(images, 8, requests, steps)),
        ):
            seen.setdefault(name, []).append(requests / took_s)
    await images.close()
    return Speed(**{name: statistics.median(speeds) for name, speeds in seen.items()})


def _ask(seed: int, steps: int, adapter: str = "") -> Draw:
    vector = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
    return Draw(
        request_id=str(seed), adapter=adapter, prompt="a face", width_px=SIDE_PX,
        height_px=SIDE_PX, seed=seed, steps=steps, guidance=3.0,
        reference=Reference(vector=vector, embedder=EMBEDDER),
    )  # fmt: skip


async def _in_turn(
    images: LocalImages, adapters: tuple[str, ...], requests: int, steps: int
) -> float:
    """Ask for one picture after another, of each adapter in turn."""
    began = time.perf_counter()
    for number in range(requests):
        await images.draw(_ask(number, steps, adapters[number % len(adapters)]))
    return time.perf_counter() - began


async def _clients(images: LocalImages, clients: int, requests: int, steps: int) -> float:
    """Let clients at once each ask for their share, one picture after another."""

    async def client(first: int) -> None:
        for number in range(first, requests, clients):
            await images.draw(replace(_ask(number, steps), prompt=f"a face {number % 3}"))

    began = time.perf_counter()
    await asyncio.gather(*(client(first) for first in range(clients)))
    return time.perf_counter() - began


def _timed(call: Callable[[], object], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - began


def _plain(export: Path, steps: int) -> Callable[[], object]:
    """Make what people write without us: diffusers' pipeline with the published adapter."""
    text = load_text_encoder("random:tiny-sd")
    pipeline: Any = StableDiffusionPipeline(
        vae=load_vae("random:tiny-sd"),
        text_encoder=None,
        tokenizer=None,
        unet=load_unet("random:tiny-sd"),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.load_ip_adapter(
        str(export), subfolder="", weight_name="ip-adapter-faceid.safetensors",
        image_encoder_folder=None,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    words, nothing = (text.encode([prompt])[0] for prompt in ("a face", ""))
    face = torch.randn(2, 1, DIM)

    def call() -> object:
        return pipeline(
            prompt_embeds=words, negative_prompt_embeds=nothing, ip_adapter_image_embeds=[face],
            height=SIDE_PX, width=SIDE_PX, num_inference_steps=steps, guidance_scale=3.0,
            generator=torch.Generator().manual_seed(0), output_type="np",
        )  # fmt: skip

    return call


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    speed = measure(**vars(parser.parse_args()))
    for what, per_s in (
        ("one adapter, one client", speed.one_adapter),
        ("16 adapters in turn, one client", speed.sixteen_adapters),
        ("plain diffusers loop", speed.plain_loop),
        ("one client", speed.one_client),
        ("eight clients", speed.eight_clients),
    ):
        print(f"{what:34}{per_s:7.2f} pictures/s")
    print(f"{'16 adapters against one':34}{speed.switching:7.2f}    (at least 0.90)")
    print(f"{'eight clients against plain loop':34}{speed.ratio:7.2f}    (aim: 1.5)")


if __name__ == "__main__":
    main()
