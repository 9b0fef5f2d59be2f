"""The shards of copies and people on one node and on two: what does a second machine gain?

    python -m tests.bench.sharded [--hashes 200000] [--vectors 100000]

Starts a head and a second node, of one CPU each, on loopback addresses of this machine, and looks
for near hashes, for equal embeddings and for neighbours: by turns as on every single machine, in a
thread of the process that asks, and in tasks on both nodes. Told is the time from the first shard
to the last answer, the arrays' way into the object store included; the workers have started before.
Of several rounds the quickest counts, and all answers are compared. Processor time tells the work
itself, where the machine is shared.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from infra.configuration import digest
from stages.copies.bands import join_near
from stages.copies.looks import Groups, Looks
from stages.copies.semantic import join_alike, on_grid
from stages.people.graph import knn_graph, prepare
from stages.spread import InThreads, Spread
from tests.bench.people import crowd
from tests.bench.planted import near_copies
from tests.e2e.nodes import HEAD, Cluster

_TIMEOUT_S = 1500


def _clocked(shard: Any, work: Any, *shared: Any) -> tuple[Any, float]:
    """Do the work of one shard, and say how long a processor was at it."""
    began = time.thread_time()
    return work(shard, *shared), time.thread_time() - began


@dataclass
class Clocked:
    """Clocks all that is spread."""

    spread: Spread
    wall_s: float = 0.0
    cpu_s: float = 0.0
    shards: int = 0

    def __call__(self, work: Any, shards: Any, *shared: Any) -> Iterator[Any]:
        """Yield what the work answers."""
        began = time.perf_counter()
        answers = []
        for answer, cpu_s in self.spread(_clocked, shards, work, *shared):
            self.cpu_s += cpu_s
            self.shards += 1
            answers.append(answer)
        self.wall_s += time.perf_counter() - began
        yield from answers


def parts(hashes: int, vectors: int) -> dict[str, Any]:
    """Make what is looked through; return, by name, who looks: given a spread, answers arrays."""
    draw = np.random.default_rng(1)
    mirrors = draw.integers(0, 256, (hashes, 32), dtype=np.uint8)
    looks = Looks(near_copies(hashes, 0.05, 31), mirrors)
    faces = crowd(vectors)
    points, _ = prepare(faces, "cosine")
    grid, some = on_grid(faces), Looks(looks.plain[:vectors])

    def near(spread: Spread) -> list[np.ndarray]:
        groups = Groups(hashes)
        join_near(looks, 31, groups, spread)
        return [groups.labels]

    def alike(spread: Spread) -> list[np.ndarray]:
        groups = Groups(len(some))
        join_alike(
            grid[: len(some)], some, groups, min_cosine=0.97, max_distance=120, spread=spread
        )
        return [groups.labels]

    def neighbours(spread: Spread) -> list[np.ndarray]:
        return list(knn_graph(points, 32, spread))

    return {
        f"near hashes, {hashes:,}": near,
        f"embeddings in cells, {len(some):,}": alike,
        f"32 neighbours, {vectors:,}": neighbours,
    }


@dataclass(frozen=True)
class Told:
    """What one part took."""

    wall_s: float
    cpu_s: float
    shards: int
    answer: str
    """A fingerprint."""


def clocked(part: Any, spread: Spread) -> Told:
    """Clock one part, and take a fingerprint of its answer."""
    clock = Clocked(spread)
    answer = digest([array.tolist() for array in part(clock)])
    return Told(clock.wall_s, clock.cpu_s, clock.shards, answer)


def _idle(_: int) -> int:
    time.sleep(1)
    return os.getpid()


def by_turns(address: str, hashes: int, vectors: int, rounds: int) -> dict[str, Any]:
    """Clock all parts on one node and on two of a cluster, the quickest of some rounds each."""
    from infra.cluster import cluster

    told: dict[str, Any] = {}
    with cluster(address):
        from pipelines.shards import OnCluster, hands

        both = hands(2)
        assert both == OnCluster(4), "there is no second node"
        while len(set(both(_idle, range(4)))) < 2:
            pass
        for part in parts(10_000, 2000).values():  # the workers have imported all afterwards
            clocked(part, both)
        for name, part in parts(hashes, vectors).items():
            spreads = {"one": InThreads(1), "two": both}
            found = [
                {each: clocked(part, spread) for each, spread in spreads.items()}
                for _ in range(rounds)
            ]
            told[name] = {
                each: asdict(min((of[each] for of in found), key=lambda one: one.wall_s))
                for each in ("one", "two")
            }
            answers = {one.answer for of in found for one in of.values()}
            told[name]["equal"] = len(answers) == 1
    return told


def asked(hashes: int, vectors: int, rounds: int) -> dict[str, Any]:
    """Start two nodes, and clock the parts in a process of its own, which joins them."""
    there = Cluster(cpus=1, worker_cpus=1).start()
    command = [
        sys.executable, "-m", "tests.bench.sharded", "--join", f"{HEAD}:{there.port}",
        "--hashes", str(hashes), "--vectors", str(vectors), "--rounds", str(rounds),
    ]  # fmt: skip
    try:
        told = subprocess.run(
            command, stdout=subprocess.PIPE, check=True, env=there.environment, timeout=_TIMEOUT_S
        )
    finally:
        there.stop()
    return json.loads(told.stdout.splitlines()[-1])


def compare(hashes: int, vectors: int, rounds: int) -> bool:
    """Print what one node takes and what two take; say whether two are faster, and answer alike."""
    good = True
    for name, told in asked(hashes, vectors, rounds).items():
        one, two = Told(**told["one"]), Told(**told["two"])
        good &= told["equal"] and two.wall_s < one.wall_s
        print(
            f"{name:30} {one.shards:3} shards  one node {one.wall_s:6.1f} s ({one.cpu_s:.1f} s CPU)"
            f"  two {two.wall_s:6.1f} s ({two.cpu_s:.1f} s CPU)  {one.wall_s / two.wall_s:.2f} x  "
            f"answers {'equal' if told['equal'] else 'DIFFERENT'}",
            flush=True,
        )
    return good


def main() -> int:
    """Print what was measured; return 1 when a second node gains nothing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hashes", type=int, default=200_000)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--join", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.join:
        print(json.dumps(by_turns(given.join, given.hashes, given.vectors, given.rounds)))
        return 0
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before the start")
    good = compare(given.hashes, given.vectors, given.rounds)
    print("a second node is faster" if good else "a second node is NOT faster everywhere")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
