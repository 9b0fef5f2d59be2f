"""Measure who is recognised: identities, labels that are cleaned, and how that grows with faces.

Quality is measured on Labeled Faces in the Wild: ``VISAGE_TEST_DATA``, or ``--data``, names a
folder with ``lfw-dev.tar``. Every photograph is searched and embedded with the embedded backend,
and its main face is the most central one. The embedder's grouping points were chosen on half of the
people; ``--choose`` shows how, and what such a choice is worth on people it has not seen. Then
labels are swapped at random and cleaned.

``--pairs`` measures photos that are brought together for training, without looking at labels.

``--scale 1000000`` measures speed instead, on vectors made up to be spread like dlib's on LFW, for
a quarter of the rows and for all.
"""

import argparse
import os
import time
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from stages.models.backend import load_detector, load_embedder
from stages.models.faces import GroupingPoints
from stages.people.cast import clean_labels
from stages.people.clusters import find_people, group_faces
from stages.people.graph import knn_graph, prepare, recall
from stages.people.thresholds import Limits, grouping_points
from stages.spread import InThreads
from tests.bench.pairs import tell_pairs
from tests.bench.verification import DETECT_PX, _batches, most_central

MIN_F = 0.95
SWAPPED = {0.2: (0.99, 0.90), 0.4: (0.97, 0.85)}
"""Share of swapped labels: least precision of the kept ones, least share of the right ones kept."""
MAX_SECONDS, MIN_RECALL, MAX_GROWTH = 1200, 0.95, 6.0
_DUPLICATES_STAY = 1e-6
"""Here every photograph counts, so that nearly equal ones are not dropped."""

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Photos:
    """One face per photograph."""

    ids: list[str]
    vectors: npt.NDArray[np.float32]
    people: Numbers

    def of(self, rows: npt.NDArray[np.bool_]) -> "Photos":
        """Return some of them."""
        ids = [name for name, taken in zip(self.ids, rows, strict=True) if taken]
        return Photos(ids, self.vectors[rows], self.people[rows])

    def halves(self, split: str = "half") -> tuple["Photos", "Photos"]:
        """Split by person, by a hash of the name."""
        names = [name.partition("/")[0] for name in self.ids]
        hashes = [blake2b(f"{split} {name}".encode()).digest()[0] for name in names]
        first = np.array(hashes) % 2 == 0
        return self.of(first), self.of(~first)


def embed(data: Path) -> Photos:
    """Find and embed the main face of every photograph."""
    torch.set_num_threads(2)
    cv2.setNumThreads(1)
    detector = load_detector("dlib", "", DETECT_PX, 0.0, "cpu")
    embedder = load_embedder("dlib", "", "cpu")
    ids, chips = [], []
    for names, pictures in _batches(data / "lfw-dev.tar"):
        for name, picture, faces in zip(names, pictures, detector.detect(pictures), strict=True):
            if len(faces.scores):
                main = most_central(faces, picture)
                ids.append(name)
                chips.append(embedder.align(picture, faces.landmarks_px[main : main + 1]))
    _, people = np.unique([name.partition("/")[0] for name in ids], return_inverse=True)
    return Photos(ids, embedder.embed(np.concatenate(chips)), people)


def agreement(found: list[str] | Numbers, people: Numbers) -> tuple[float, float]:
    """Return pairwise F1 and B-cubed F of a grouping.

    References:
        Amigo et al., "A comparison of extrinsic clustering evaluation metrics", Information
        Retrieval 12, 2009.
    """
    _, group = np.unique(found, return_inverse=True)
    _, person = np.unique(people, return_inverse=True)
    _, at, both = np.unique(
        group * (person.max() + 1) + person, return_inverse=True, return_counts=True
    )
    sizes, photos = np.bincount(group), np.bincount(person)
    pairs = [float((counts * (counts - 1)).sum()) for counts in (both, sizes, photos)]
    bcubed = [float((both[at] / counts).mean()) for counts in (sizes[group], photos[person])]
    return 2 * pairs[0] / max(pairs[1] + pairs[2], 1), 2 * bcubed[0] * bcubed[1] / sum(bcubed)


def grouped(photos: Photos, points: GroupingPoints) -> tuple[float, float]:
    """Group the photographs and return pairwise F1 and B-cubed F; nobody's are alone."""
    people = find_people(photos.ids, photos.vectors, points, min_photos=1)
    return agreement(people.identity, photos.people)


def chosen(photos: Photos, points: GroupingPoints) -> GroupingPoints:
    """Try pairs of limits, and return those whose lesser F is greatest."""
    prepared, _ = prepare(photos.vectors, points.metric)
    graph = knn_graph(prepared)
    grid = [
        replace(points, pair_below=pair / 1000, group_below=(pair + more) / 1000)
        for pair, more in product(range(50, 65, 2), (10, 15, 20, 25))
    ]

    def worth(tried: GroupingPoints) -> float:
        labels, _ = group_faces(prepared, graph, Limits.of(tried))
        return min(agreement(labels, photos.people))

    return max(grid, key=worth)


def tell_choices(photos: Photos, points: GroupingPoints, splits: int = 4) -> None:
    """Print what is chosen on halves of the people, and what it is worth on the other half."""
    found = []
    for split in range(splits):
        parts = photos.halves("half" if split == 0 else f"half {split}")
        for seen, unseen in (parts, parts[::-1]):
            best = chosen(seen, points)
            found.append(grouped(unseen, best))
            print(
                f"chosen on a half    {best.pair_below}, {best.group_below}; on the other: "
                f"pairwise F1 {found[-1][0]:.4f}, B-cubed F {found[-1][1]:.4f}"
            )
    f1, bcubed = np.mean(found, axis=0)
    print(f"mean over halves    pairwise F1 {f1:.4f}, B-cubed F {bcubed:.4f}, never those seen")


@dataclass(frozen=True)
class Cleaned:
    """What cleaning made of swapped labels."""

    precision: float
    """Share of the kept labels that are right."""
    kept: float
    """Share of the right labels that are kept, of people with three photographs or more."""


def cleaned(photos: Photos, points: GroupingPoints, swapped: float, seed: int = 0) -> Cleaned:
    """Swap a share of the labels among each other at random, and clean them."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(photos.ids))[: int(swapped * len(photos.ids))]
    given = photos.people.copy()
    given[rows] = given[rng.permutation(rows)]
    points = replace(points, duplicate_below=_DUPLICATES_STAY)
    clean = clean_labels(photos.ids, photos.vectors, [str(label) for label in given], points)
    label = np.array([int(name) if name else -1 for name in clean.label])
    many = np.bincount(photos.people)[photos.people] >= 3
    right = many & (given == photos.people)
    return Cleaned(
        precision=float((label == photos.people)[label >= 0].mean()),
        kept=float((label == photos.people)[right].mean()),
    )


def crowd(rows: int, dim: int = 128, seed: int = 0) -> npt.NDArray[np.float32]:
    """Make up vectors of people with ten photos on average, spread like dlib's of LFW.

    Unit vectors about a mean of length 0.91, variance 0.116 between people and 0.050 within, in few
    directions between (22 as participation ratios go) and more within (60).
    """
    rng = np.random.default_rng(seed)
    axis = np.arange(dim)
    between = (1 + axis / 4) ** -1.2 * np.exp(-axis / 60)
    within = rng.permutation(np.exp(-axis / 40))
    photos = rng.geometric(0.1, size=rows // 5 + 10)
    who = rng.permutation(np.repeat(np.arange(len(photos)), photos)[:rows])
    people = rng.standard_normal((int(who.max()) + 1, dim), np.float32)
    people *= np.sqrt(0.116 * between / between.sum()).astype(np.float32)
    vectors = rng.standard_normal((rows, dim), np.float32)
    vectors *= np.sqrt(0.050 * within / within.sum()).astype(np.float32)
    vectors += people[who] + np.float32(0.914 / dim**0.5)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@dataclass(frozen=True)
class Speed:
    """What one size took."""

    rows: int
    graph_s: float
    grouping_s: float
    cpu_s: float
    """Processor seconds of both, which tell more than the clock where a machine is shared."""
    recall: float
    groups: int

    @property
    def total_s(self) -> float:
        """Both together."""
        return self.graph_s + self.grouping_s


def speed(rows: int, dim: int = 128, k: int = 32, threads: int = 2) -> Speed:
    """Time neighbours and groups of made-up vectors."""
    points = grouping_points("dlib")
    prepared, _ = prepare(crowd(rows, dim), points.metric)
    began, cpu_began = time.perf_counter(), time.process_time()
    graph = knn_graph(prepared, k, InThreads(threads))
    graph_s = time.perf_counter() - began
    began = time.perf_counter()
    _, groups = group_faces(prepared, graph, Limits.of(points))
    grouping_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    return Speed(rows, graph_s, grouping_s, cpu_s, recall(prepared, graph), len(groups.counts))


def tell_speed(rows: int, dim: int) -> bool:
    """Print how long a quarter of the rows and all of them take; say whether that is good."""
    sizes = []
    for size in (rows // 4, rows):
        s = speed(size, dim)
        sizes.append(s)
        print(
            f"{s.rows:>9,} x {dim}  graph {s.graph_s:.0f} s, groups {s.grouping_s:.0f} s, "
            f"processor {s.cpu_s:.0f} s, recall {s.recall:.3f}, {s.groups:,} groups",
            flush=True,
        )
    growth = sizes[1].total_s / sizes[0].total_s
    print(f"growth              {growth:.1f} x (demanded: at most {MAX_GROWTH})")
    recalled = min(s.recall for s in sizes) >= MIN_RECALL
    return sizes[1].total_s <= MAX_SECONDS and recalled and growth <= MAX_GROWTH


def tell_quality(data: Path, choose: bool) -> bool:
    """Print the quality on LFW; say whether that is good."""
    photos, points = embed(data), grouping_points("dlib")
    seen, unseen = photos.halves()
    if choose:
        tell_choices(photos, points)
    print(f"limits              {points.pair_below}, {points.group_below} ({points.metric})")
    good = True
    for name, part in (("half chosen on", seen), ("other half", unseen), ("all", photos)):
        f1, bcubed = grouped(part, points)
        good &= name != "all" or min(f1, bcubed) >= MIN_F
        print(
            f"{name:<19} pairwise F1 {f1:.4f}, B-cubed F {bcubed:.4f}, {len(part.ids)} photos of "
            f"{len(set(part.people.tolist()))} people"
        )
    for share, (precision, kept) in SWAPPED.items():
        clean = cleaned(photos, points, share)
        good &= clean.precision >= precision and clean.kept >= kept
        print(
            f"{share:.0%} swapped         kept labels {clean.precision:.2%} right (demanded "
            f"{precision:.0%}), {clean.kept:.1%} of the right ones kept (demanded {kept:.0%})"
        )
    return good


def main() -> int:
    """Print what was measured; return 1 when a demand is not met."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("VISAGE_TEST_DATA"))
    parser.add_argument("--choose", action="store_true", help="choose the limits again, on half")
    parser.add_argument("--scale", type=int, help="measure speed, with so many vectors")
    parser.add_argument("--dim", type=int, default=128, help="of these")
    parser.add_argument("--pairs", action="store_true", help="measure pairs instead")
    given = parser.parse_args()
    if given.scale:
        good = tell_speed(given.scale, given.dim)
    elif given.data is None or not (given.data / "lfw-dev.tar").is_file():
        parser.error(f"{given.data} has no lfw-dev.tar; give its folder with --data")
    elif given.pairs:
        good = tell_pairs(given.data)
    else:
        good = tell_quality(given.data, given.choose)
    print("all demands are met" if good else "a demand is NOT met")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
