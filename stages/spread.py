"""One function for many shards, wherever there are hands for it."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import faiss

Shard = TypeVar("Shard")
Answer = TypeVar("Answer")


@runtime_checkable
class Spread(Protocol):
    """Calls a function for every shard: in threads of this process, or on a cluster.

    What is asked of whoever cuts work into shards: the shards follow from the data, never from the
    number of hands, and ``work`` depends on nothing but its arguments. Then the answer is the same
    wherever it runs, and a shard may be done twice, as it is when a worker dies.
    """

    def __call__(
        self,
        work: Callable[..., Answer],
        shards: Sequence[Shard],
        *shared: Any,  # noqa: ANN401 - whatever the work takes
    ) -> Iterator[Answer]:
        """Yield ``work(shard, *shared)`` for every shard, in the order of the shards.

        Args:
            work: A function of a module. It must not change ``shared``.
            shards: One call each.
            shared: What all calls need. Sent to each machine once; workers read its arrays where
                they lie, without a copy of their own.
        """
        ...


@dataclass(frozen=True, slots=True)
class InThreads:
    """Calls it in threads of this process: numpy and faiss let others run while they compute."""

    threads: int

    def __call__(
        self,
        work: Callable[..., Answer],
        shards: Sequence[Shard],
        *shared: Any,  # noqa: ANN401 - whatever the work takes
    ) -> Iterator[Answer]:
        """Yield ``work(shard, *shared)`` for every shard, in their order; see ``Spread``."""
        # faiss counts threads per thread: as many callers as there are hands, one thread each.
        single = partial(faiss.omp_set_num_threads, 1)
        with ThreadPoolExecutor(self.threads, initializer=single) as pool:
            yield from pool.map(lambda shard: work(shard, *shared), shards)


HERE = InThreads(2)
"""For who has no better hands."""
