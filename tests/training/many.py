"""A few processes of one gloo group, which stay, and train what a test asks of them."""

import multiprocessing
import os
import traceback
from pathlib import Path

import numpy as np
import torch

TIMEOUT_S = 240


class Workers:
    """``world`` processes; a task is the same call in each, and its answer rank 0's."""

    def __init__(self, world: int, folder: Path) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for rank in range(world):
            here, there = spawn.Pipe()
            meeting = f"file://{folder}/meeting"
            process = spawn.Process(target=_serve, args=(rank, world, meeting, there), daemon=True)
            process.start()
            self.pipes.append(here)
            self.processes.append(process)

    def train(self, recipe, out, **how):
        """Train on all workers; see ``train`` below."""
        for pipe in self.pipes:
            pipe.send((recipe, out, how))
        answers = []
        for pipe in self.pipes:
            if not pipe.poll(TIMEOUT_S):
                raise TimeoutError("a worker does not answer")
            answers.append(pipe.recv())
        assert not any(isinstance(answer, str) for answer in answers), answers
        return answers

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


def _serve(rank, world, meeting, pipe):
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(world))
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    while True:
        recipe, out, how = pipe.recv()
        try:
            pipe.send(train(recipe, out, **how))
        except BaseException:
            pipe.send(traceback.format_exc())


def make_engine(method, recipe):
    """Make the engine that a worker would."""
    from training.engine import PlainEngine
    from training.zero import ZeroEngine

    return (ZeroEngine if recipe.scale.zero_stage else PlainEngine)(method, recipe)


def train(recipe, out, *, poisoned=(), scored=False):
    """Train here; return what a test compares.

    Args:
        recipe: What to train.
        out: The run's folder.
        poisoned: Steps (counted from 0) in which this worker's loss is not a number; of rank 1,
            or of the only one.
        scored: Validate, with the mean of all weights as the score.
    """
    from training.build import build
    from training.engine import halved
    from training.loop import Diverged, fit

    job = build(recipe)
    engine = make_engine(job.method, recipe)
    forward, group = job.method.forward, engine.group

    def spoilt(batch):
        losses = forward(batch)
        if engine.taken in poisoned and group.rank == group.world - 1:
            losses["loss"] = losses["loss"] * float("nan")
        return losses

    job.method.forward = spoilt
    reports, diverged = [], False
    how = {"validate": _score} if scored else {}
    try:
        step = fit(engine, job.batches, recipe, out, reports.append, **how)
    except Diverged:
        step, diverged = engine.taken, True
    mine = set(job.method.trainable())
    frozen = {w.dtype for n, w in job.method.named_parameters() if halved(n) and n not in mine}
    with engine.gathered():
        weights = {n: w.detach().clone().numpy() for n, w in job.method.trainable().items()}
    return {
        "losses": [r.losses["loss"] for r in reports],
        "scores": [r.scores for r in reports],
        "norms": [r.grad_norm for r in reports],
        "skipped": [r.step for r in reports if r.skipped],
        "step": step,
        "diverged": diverged,
        "weights": weights,
        "frozen": sorted(map(str, frozen)),
    }


def _score(method, _):
    """Draw a picture, which makes every layer work, and score it."""
    from training.method import Condition, Sampling

    condition = Condition(torch.zeros(1, method.features.identity_dim))
    picture = method.generate(
        condition, torch.Generator().manual_seed(0), sampling=Sampling(steps=2)
    )
    return {"brightness": float(picture.mean())}


def apart(ours, theirs):
    """Mean distance of two sets of weights; Adam makes much of gradients that are almost 0."""
    return float(np.mean([np.abs(ours[name] - weight).mean() for name, weight in theirs.items()]))
