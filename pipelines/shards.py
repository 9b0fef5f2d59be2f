"""Shards of a job that one process puts together: on a cluster, or in its own threads."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray

from pipelines.parallel import spread
from stages.spread import InThreads, Spread

Shard = TypeVar("Shard")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class OnCluster:
    """Calls a function for every shard in a task of its own, of one CPU; see ``Spread``.

    Ray keeps what the tasks share once per machine, in its object store, and tasks read it there.
    A task whose worker or machine dies is run again, and gives the same answer.
    """

    at_once: int
    """Most tasks in flight."""

    def __call__(
        self,
        work: Callable[..., Answer],
        shards: Sequence[Shard],
        *shared: Any,  # noqa: ANN401 - whatever the work takes
    ) -> Iterator[Answer]:
        """Yield ``work(shard, *shared)`` for every shard, in their order."""
        early: dict[int, Answer] = {}
        turn = 0
        for number, answer in spread(
            _numbered, enumerate(shards), work, *shared, at_once=self.at_once
        ):
            early[number] = answer
            while turn in early:
                yield early.pop(turn)
                turn += 1


def _numbered(
    item: tuple[int, Shard],
    work: Callable[..., Answer],
    *shared: Any,  # noqa: ANN401 - whatever the work takes
) -> tuple[int, Answer]:
    """Do the work of one shard, and say of which."""
    number, shard = item
    return number, work(shard, *shared)


def hands(cpus: int) -> Spread:
    """Return who works on shards: other machines where there are any, else threads of this process.

    On one machine threads are as quick as tasks, and need no second copy of what they share.

    Args:
        cpus: That may work at a time.
    """
    here = ray.get_runtime_context().get_node_id()
    others = [
        node
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU") and node["NodeID"] != here
    ]
    # Twice as many as can run: the next is there when one ends.
    return OnCluster(2 * cpus) if others else InThreads(cpus)
