"""From prepared samples to microbatches: the same sequence whatever the number of workers.

Every choice (order, reference, noise, time, drop) follows from the seed and the position of the
sample in the run, so a run can be resumed in the middle, on another number of workers, and see what
it would have seen. ``training.order`` says which sample comes when.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from infra.errors import BadValue
from training.features import Prepared
from training.noise import correlated
from training.order import Order
from training.settings import TrainRecipe
from training.video.chances import chances

OF_TARGET = ("latents", "landmarks", "mask", "text", "pooled", "size", "seen", "motion",
             "attributes_text")  # fmt: skip
"""Features that say what is learnt to be drawn."""
OF_REFERENCE = ("identity", "image", "reference_latents", "face_states", "face_pooled")
"""Features of who is shown."""


class Batches:
    """The batches of a run, by step.

    One thread reads ahead: while a step is computed, the next one of the same worker is read.

    Attributes:
        captions: Makes what losses want to know of the captions of samples, more entries of a
            batch; ``training.build`` sets it where one does.
    """

    def __init__(
        self,
        prepared: Prepared,
        samples: Int64[np.ndarray, " samples"],
        recipe: TrainRecipe,
        others: Int64[np.ndarray, " others"] | None = None,
    ) -> None:
        """Put samples in their order.

        Args:
            prepared: What they are of.
            samples: What is trained on.
            recipe: Says how much at once, and what the draws follow from.
            others: Of a subject's class: ``data.prior_share`` of every batch is theirs.

        Raises:
            BadValue: There is nothing to train on, or nobody of the class in a shape of picture.
        """
        if len(samples) == 0:
            raise BadValue("data.path", str(prepared.folder), "it holds no samples to train on.")
        self.prepared, self.samples, self.recipe = prepared, samples, recipe
        self.captions: Callable[[Int64[np.ndarray, " batch"]], dict[str, Tensor]] = lambda _: {}
        self._photos: dict[str, list[int]] = defaultdict(list)
        self._others: dict[int, Int64[np.ndarray, " others"]] = {}
        if recipe.data.prior_share:
            self._others = _by_bucket(prepared, samples, others)
        for sample in np.concatenate([samples, *self._others.values()]).tolist():
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
        positions = np.arange(self.recipe.batch)[mine] + step * self.recipe.batch
        targets = self._with_others(self._targets(step)[mine], positions)
        size = min(self.recipe.microbatch, share)
        return [
            self._read(targets[at : at + size], positions[at : at + size])
            for at in range(0, share, size)
        ]

    def _targets(self, step: int) -> Int64[np.ndarray, " batch"]:
        """Return what one step is of, in its order."""
        return self._order.at(step)

    def _read(
        self, targets: Int64[np.ndarray, " batch"], positions: Int64[np.ndarray, " batch"]
    ) -> dict[str, Tensor]:
        """Read the samples at some positions of the run, and draw what is random of them."""
        pairs = zip(targets.tolist(), positions.tolist(), strict=True)
        references = np.array([self._reference(t, p) for t, p in pairs], np.int64)
        there = self.prepared.names
        batch = {name: self.prepared.read(name, targets) for name in OF_TARGET if name in there}
        for name in OF_REFERENCE:
            if name in there:
                batch[name] = self.prepared.read(name, references)
        batch |= self.captions(targets)
        batch["target_identity"] = self.prepared.read("identity", targets)
        if self.recipe.data.subject:
            batch["is_prior"] = torch.from_numpy(self._of_others(positions))
        all_of_them = self.recipe.steps * self.recipe.batch
        batch["progress"] = torch.from_numpy(positions / all_of_them).float()
        if self.prepared.features.frames:
            batch |= chances(self.recipe.seed, positions.tolist(), batch.get("reference_latents"))
        shape = batch["latents"].shape[1:]
        if self.recipe.video.frames and not self.prepared.features.frames:
            shape = torch.Size([shape[0], self.recipe.video.frames, *shape[1:]])
        return batch | self._draw(positions, shape)

    def _of_others(self, positions: Int64[np.ndarray, " batch"]) -> Bool[np.ndarray, " batch"]:
        """Say at which positions somebody of the class comes: evenly, a share of any stretch."""
        share = self.recipe.data.prior_share
        return np.floor((positions + 1) * share) > np.floor(positions * share)

    def _with_others(
        self, targets: Int64[np.ndarray, " batch"], positions: Int64[np.ndarray, " batch"]
    ) -> Int64[np.ndarray, " batch"]:
        """Put somebody of the class, in the same shape of picture, where one is to come."""
        for at in np.flatnonzero(self._of_others(positions)):
            pool = self._others[int(self.prepared.buckets[targets[at]])]
            rng = np.random.default_rng([self.recipe.seed, 4, int(positions[at])])
            targets[at] = pool[int(rng.integers(len(pool)))]
        return targets

    def _reference(self, target: int, position: int) -> int:
        """Choose a photograph that the target is paired with, or any other of the same person.

        A single one refers to itself, and so does a share of all that ``data.cross_share`` leaves.
        """
        person = self.prepared.people[target]
        photos = self.prepared.references.get(target) or self._photos[person]
        if photos == [target]:
            return target
        rng = np.random.default_rng([self.recipe.seed, 1, position])
        share = self.recipe.data.cross_share
        if share < 1 and rng.random() >= share:
            return target
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
        noise, correlation = torch.stack(noises), self.recipe.video.noise_correlation
        return {
            "noise": correlated(noise, correlation) if correlation else noise,
            "time": torch.stack(times),
            "drop": torch.stack(drops),
        }


def _by_bucket(
    prepared: Prepared,
    samples: Int64[np.ndarray, " samples"],
    others: Int64[np.ndarray, " others"] | None,
) -> dict[int, Int64[np.ndarray, " others"]]:
    """Sort the class by shape of picture, for those shapes that the subject's pictures have."""
    others = samples[:0] if others is None else others
    wanted = np.unique(prepared.buckets[samples]).tolist()
    sorted_ = {bucket: others[prepared.buckets[others] == bucket] for bucket in wanted}
    if lacking := [bucket for bucket, pool in sorted_.items() if len(pool) == 0]:
        raise BadValue(
            "data.prior_share",
            len(others),
            f"nobody else has a picture in the shape of bucket {lacking[0]}; prepare one aspect.",
        )
    return sorted_
