"""From prepared samples to microbatches: the same sequence whatever the number of workers.

Every choice (order, reference, noise, time, drop) follows from the seed and the position of the
sample in the run, so a run can be resumed in the middle, on another number of workers, and see what
it would have seen.
"""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from infra.errors import BadValue
from training.features import Prepared
from training.recipes import TrainRecipe

_READ = ("latents", "landmarks", "mask")


class Batches:
    """The batches of a run, by step."""

    def __init__(
        self, prepared: Prepared, samples: Int64[np.ndarray, " samples"], recipe: TrainRecipe
    ) -> None:
        if len(samples) == 0:
            raise BadValue("data.path", str(prepared.folder), "it holds no samples to train on.")
        self.prepared, self.samples, self.recipe = prepared, samples, recipe
        self._photos: dict[str, list[int]] = defaultdict(list)
        for sample in samples.tolist():
            self._photos[prepared.people[sample]].append(sample)
        self._epoch, self._order = -1, samples

    def micro(self, step: int, rank: int = 0, world: int = 1) -> Iterator[dict[str, Tensor]]:
        """Yield the microbatches of one worker in one step."""
        share = self.recipe.batch // world
        first = step * self.recipe.batch + rank * share
        size = min(self.recipe.microbatch, share)
        for start in range(first, first + share, size):
            yield self._read(np.arange(start, start + size))

    def _read(self, positions: Int64[np.ndarray, " batch"]) -> dict[str, Tensor]:
        """Read the samples at some positions of the run, and draw what is random of them."""
        targets = np.array([self._sample(p) for p in positions.tolist()])
        references = np.array(
            [
                self._reference(t, p)
                for t, p in zip(targets.tolist(), positions.tolist(), strict=True)
            ]
        )
        batch = {name: self.prepared.read(name, targets) for name in _READ}
        if self.prepared.features.text_shape[0]:
            batch["text"] = self.prepared.read("text", targets)
        batch["identity"] = self.prepared.read("identity", references)
        batch["target_identity"] = self.prepared.read("identity", targets)
        return batch | self._draw(positions, batch["latents"].shape[1:])

    def _sample(self, position: int) -> int:
        """Return the sample at a position: every epoch is a permutation of its own."""
        epoch, place = divmod(position, len(self.samples))
        if epoch != self._epoch:
            rng = np.random.default_rng([self.recipe.seed, epoch])
            self._epoch, self._order = epoch, rng.permutation(self.samples)
        return int(self._order[place])

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
