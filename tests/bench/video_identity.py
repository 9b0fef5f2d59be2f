"""Does a method of videos learn who it is told? ``python -m tests.bench.video_identity``.

Clips of planted people: a textured square that moves over a background of its own. A person's look
is a fixed function of the vector, the same for all, as a face is of what a recognition network says
of it; so whoever learns it knows people that training never saw. ``proteus_id`` learns from nothing
on some of the people; on the others, a clip each, the denoising loss when told the right person is
compared with that when told another: a paired t-test, one-sided. It is reported also if it fails.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import ttest_1samp

from tests.training.videos import COGVIDEOX, DIM, FACE_POOLED, FACE_STATES, recipe, write_videos
from training.build import Job, build
from training.evaluate import loss_gains
from training.features import Prepared
from training.settings import DropSettings, LossSettings, MethodSettings, OptimiserSettings

HELDOUT_SHARE = 0.2
_INNER = 4
"""Numbers that all of a person follows from."""


def plant(folder: Path, people: int, clips: int) -> Path:
    """Write clips whose people look as their vectors say."""
    write_videos(folder, COGVIDEOX, people=people, clips=clips)
    path = folder / "shards/shard-00000.safetensors"
    held = load_file(path)
    rng = torch.Generator().manual_seed(1)
    inner = torch.randn(people, _INNER, generator=rng)

    def of(*shape: int, noise: float = 0.05) -> torch.Tensor:
        """Make something of every clip's person that follows from ``inner``."""
        size = int(np.prod(shape))
        told = inner @ torch.randn(_INNER, size, generator=rng) / _INNER**0.5
        rows = told.repeat(clips, 1) + noise * torch.randn(people * clips, size, generator=rng)
        return rows.view(-1, *shape)

    look = of(4, 1, 3, 3, noise=0.0).repeat(1, 1, 1, 3, 3)[:, :, :, :8, :8]  # tiles of 3 x 3
    shown = held["mask"][:, None].float()
    moved = torch.stack([_laid(look[n, :, 0], shown[n, 0]) for n in range(len(shown))])
    held["latents"] = (held["latents"].float() * (1 - shown) + moved * shown).half()
    held |= {"identity": of(DIM), "face_states": of(*FACE_STATES), "face_pooled": of(FACE_POOLED)}
    held["attributes_text"] = torch.zeros_like(held["attributes_text"])
    save_file({name: tensor.contiguous() for name, tensor in held.items()}, path)
    return folder


def _laid(tile: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Lay a look where the mask of each frame begins: C x T x H x W."""
    frames = []
    for frame in mask:
        y, x = (int(axis[0]) for axis in torch.nonzero(frame, as_tuple=True))
        frames.append(torch.roll(tile, (y, x), dims=(1, 2)))
    return torch.stack(frames, dim=1)


def learn(folder: Path, steps: int, budget_s: float) -> tuple[Job, int, float]:
    """Train until the steps or the seconds are used up; the job, the steps, the last loss."""
    ours = recipe(
        folder, COGVIDEOX, steps=steps, batch=16, microbatch=16,
        method=MethodSettings(kind="proteus_id"), losses=LossSettings(motion=1.0),
        drop=DropSettings(identity=0.1, text=0.0, both=0.0),
        optimiser=OptimiserSettings(learning_rate=2e-3, warmup_steps=50),
    )  # fmt: skip
    job = build(replace(ours, data=replace(ours.data, heldout_share=HELDOUT_SHARE)))
    optimiser = torch.optim.AdamW(job.method.trainable().values(), lr=2e-3)
    began, lately = time.monotonic(), [float("nan")]
    job.method.train()
    for step in range(steps):
        if time.monotonic() - began > budget_s:
            break
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 50) * (1 - step / steps)
        (given,) = job.batches.micro(step)
        losses = job.method(given)
        optimiser.zero_grad()
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(job.method.trainable().values(), 1.0)
        optimiser.step()
        lately = [*lately[-49:], losses["mse"].item()]
        if step % 100 == 0:
            print(f"step {step}: mse {np.nanmean(lately):.3f}", file=sys.stderr)
    job.method.eval()
    return job, step + 1, float(np.nanmean(lately))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=400)
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--budget-s", type=float, default=270.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)  # its layers are too small for more
    with tempfile.TemporaryDirectory() as home:
        folder = plant(Path(home) / "features", asked.people, asked.clips)
        job, steps, mse = learn(folder, asked.steps, asked.budget_s)
        prepared = Prepared(folder)
        seen, unseen = prepared.split(HELDOUT_SHARE)
        print("| people | clips | steps | training mse | mean gain | sd | t | p (one-sided) |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|")
        for name, samples in (("in training", seen), ("held out", unseen)):
            first = _one_each(prepared, samples)
            gains = loss_gains(job.method, prepared, first)
            test = ttest_1samp(gains, 0.0, alternative="greater")
            print(
                f"| {len(gains)} {name} | {len(samples)} | {steps} | {mse:.3f} "
                f"| {gains.mean():+.4f} | {gains.std(ddof=1):.4f} | {test.statistic:.2f} "
                f"| {test.pvalue:.1e} |"
            )


def _one_each(prepared: Prepared, samples: np.ndarray) -> np.ndarray:
    """Take the first clip of each person, of at most 60."""
    firsts = {prepared.people[sample]: sample for sample in reversed(samples.tolist())}
    return np.array(sorted(firsts.values())[:60])


if __name__ == "__main__":
    main()
