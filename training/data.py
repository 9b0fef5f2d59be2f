"""From prepared samples to microbatches: the same sequence whatever the number of workers.

Every choice (order, reference, noise, time, drop) follows from the seed and the position of the
sample in the run, so a run can be resumed in the middle, on another number of workers, and see what
it would have seen. ``training.order`` says which sample comes when.
"""

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from infra.errors import BadValue
from training.features import Prepared
from training.order import Order
from training.settings import TrainRecipe

_OF_TARGET = ("latents", "landmarks", "mask", "text", "pooled", "size")
_OF_REFERENCE = ("identity", "image")


class Batches:
    """The batches of a run, by step.

    One thread reads ahead: while a step is computed, the next one of the same worker is read.
    """

    def __init__(
        self, prepared: Prepared, samples: Int64[np.ndarray, " samples"], recipe: TrainRecipe
    ) -> None:
        if len(samples) == 0:
            raise BadValue("data.path", str(prepared.folder), "it holds no samples to train on.")
        self.prepared, self.samples, self.recipe = prepared, samples, recipe
        self._photos: dict[str, list[int]] = defaultdict(list)
        for sample in samples.tolist():
            self._photos[prepared.people[sample]].append(sample)
        self._order = Order(samples, prepared.buckets[samples], recipe.batch, recipe.seed)
        # All reading happens on this thread. Its number of threads is its own, as in torch's
        # pinning thread; more would take cores from the step that is being computed.
        self._reader = ThreadPoolExecutor(1, "batches", torch.set_num_threads, (1,))
        self._ahead: dict[tuple[int, int, int], Future[list[dict[str, Tensor]]]] = {}

    def micro(self, step: int, rank: int = 0, world: int = 1) -> Iterator[dict[str, Tensor]]:
        """Yield the microbatches of one worker in one step."""
        wanted = self._ahead.pop((step, rank, world), None)
        wanted = wanted or self._reader.submit(self._step, step, rank, world)
        following = (step + 1, rank, world)
        asked = step + 1 < self.recipe.steps
        self._ahead = {following: self._reader.submit(self._step, *following)} if asked else {}
        yield from wanted.result()

    def _step(self, step: int, rank: int, world: int) -> list[dict[str, Tensor]]:
        """Read all microbatches of one worker in one step."""
        share = self.recipe.batch // world
        mine = slice(rank * share, (rank + 1) * share)
        targets = self._order.at(step)[mine]
        positions = np.arange(self.recipe.batch)[mine] + step * self.recipe.batch
        size = min(self.recipe.microbatch, share)
        return [
            self._read(targets[at : at + size], positions[at : at + size])
            for at in range(0, share, size)
        ]

    def _read(
        self, targets: Int64[np.ndarray, " batch"], positions: Int64[np.ndarray, " batch"]
    ) -> dict[str, Tensor]:
        """Read the samples at some positions of the run, and draw what is random of them."""
        pairs = zip(targets.tolist(), positions.tolist(), strict=True)
        references = np.array([self._reference(t, p) for t, p in pairs], np.int64)
        there = self.prepared.names
        batch = {name: self.prepared.read(name, targets) for name in _OF_TARGET if name in there}
        for name in _OF_REFERENCE:
            if name in there:
                batch[name] = self.prepared.read(name, references)
        batch["target_identity"] = self.prepared.read("identity", targets)
        return batch | self._draw(positions, batch["latents"].shape[1:])

    def _reference(self, target: int, position: int) -> int:
        """Choose another photograph of the same person; a single one refers to itself."""
        photos = self._photos[self.prepared.people[target]]
        if len(photos) == 1:
            return target
        rng = np.random.default_rng([self.recipe.seed, 1, position])
        others = [photo for photo in photos if photo != target]
        return others[int(rng.integers(len(others)))]

    def _draw(self, positions: Int64[np.ndarray, " batch"], shape: torch.Size) -> dict[str, Tensor]:
        """Draw noise, time and drop for each position, on the CPU, where draws are the same."""
        noises, times, drops = [], [], []
        for position in positions.tolist():
            seed = np.random.SeedSequence([self.recipe.seed, 2, position]).generate_state(1)[0]
            rng = torch.Generator().manual_seed(int(seed))
            noises.append(torch.randn(shape, generator=rng))
            times.append(torch.rand((), generator=rng))
            drops.append(torch.rand((), generator=rng))
        return {
            "noise": torch.stack(noises),
            "time": torch.stack(times),
            "drop": torch.stack(drops),
        }
