"""Which sample comes when: random access into an endless, shuffled run over the samples.

The whole batch of a step is of one aspect bucket, so that every microbatch of every worker has one
latent shape, and steps change between buckets (as SDXL was trained, arXiv:2307.01952, section 2.3).
Each bucket is an endless stream of its own: one permutation of its samples after another, cut into
batches across their ends, so that no sample is left out and none comes early. A bucket of n samples
has had floor(e * n / batch) steps by the end of epoch e; the steps of an epoch are shuffled. All of
it follows from the seed and the step alone.
"""

import bisect
import itertools

import numpy as np
from jaxtyping import Int64


class Order:
    """The samples of a run by step.

    Args:
        samples: Numbers of the samples.
        buckets: The aspect bucket of each of ``samples``.
        batch: Samples per step, over all workers.
        seed: What the shuffling follows from.
    """

    def __init__(
        self,
        samples: Int64[np.ndarray, " samples"],
        buckets: Int64[np.ndarray, " samples"],
        batch: int,
        seed: int,
    ) -> None:
        self._batch, self._seed = batch, seed
        self._streams = [samples[buckets == bucket] for bucket in np.unique(buckets)]
        self._shuffled: dict[int, tuple[int, Int64[np.ndarray, " samples"]]] = {}

    def at(self, step: int) -> Int64[np.ndarray, " batch"]:
        """Return the samples of one step, in their order."""
        stream, turn = self._turn(step)
        first = turn * self._batch
        return np.array([self._sample(stream, first + i) for i in range(self._batch)], np.int64)

    def _turn(self, step: int) -> tuple[int, int]:
        """Return which stream a step belongs to, and how many turns that stream has had."""
        if len(self._streams) == 1:
            return 0, step
        epoch = self._epoch(step)
        before, after = self._turns(epoch), self._turns(epoch + 1)
        turns = [
            np.full(then - now, stream)
            for stream, (now, then) in enumerate(zip(before, after, strict=True))
        ]
        rng = np.random.default_rng([self._seed, 3, epoch])
        order = rng.permutation(np.concatenate(turns)).tolist()
        place = step - sum(before)
        stream = order[place]
        return stream, before[stream] + order[:place].count(stream)

    def _turns(self, epoch: int) -> list[int]:
        """Count the steps that each stream has had when an epoch begins."""
        return [epoch * len(stream) // self._batch for stream in self._streams]

    def _epoch(self, step: int) -> int:
        """Find the epoch whose steps hold ``step``."""
        beyond = next(e for e in (2**n for n in itertools.count()) if sum(self._turns(e)) > step)
        epochs = range(beyond + 1)
        return bisect.bisect_right(epochs, step, key=lambda e: sum(self._turns(e))) - 1

    def _sample(self, stream: int, position: int) -> int:
        """Return the sample at a position of a stream."""
        samples = self._streams[stream]
        epoch, place = divmod(position, len(samples))
        if self._shuffled.get(stream, (-1,))[0] != epoch:
            # One bucket is shuffled as it always was: runs that were measured depend on it.
            alone = len(self._streams) == 1
            rng = np.random.default_rng(
                [self._seed, epoch] if alone else [self._seed, 3, stream, epoch]
            )
            self._shuffled[stream] = epoch, rng.permutation(samples)
        return int(self._shuffled[stream][1][place])
