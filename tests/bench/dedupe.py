"""Copies among a million pictures: how fast they are found, and how surely.

    python -m tests.bench.dedupe [--rows 1000000] [--semantic]
    python -m tests.bench.dedupe --quality --data FOLDER

The first makes hashes at random, of which 5 % are near copies of others, and finds all groups: on
a quarter of the rows and on all, each in a process of its own on two cores. Mirrors are asked for
too. As the baseline, some of the rows are compared with all by faiss; the rest is extrapolated.
``--semantic`` gives every row an embedding of 128 numbers and compares these as well.

The second edits 1,000 photographs of ``lfw-dev.tar`` in six ways and looks for the copies, by
hashes alone and with the embeddings of the faces that dlib finds. Counted are pairs of a photograph
and its edit, and for the precision all pairs that end in one group.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa

from stages.columns import schema
from stages.copies.keepers import COMPARED, find_duplicates
from stages.copies.semantic import on_grid
from stages.copies.settings import DedupeSettings
from tests.bench.planted import EDITS, edited, near_copies, photographs

MAX_S, MAX_GIB, MAX_GROWTH = 120.0, 4.0, 5.0
MIN_RECALL, MIN_PRECISION = 0.97, 0.999
SHARE = 0.05
_SAMPLE_ROWS = 2000
_DIM = 128


@dataclass(frozen=True)
class Speed:
    """What finding all copies took."""

    rows: int
    found: int
    """Duplicates; as many as were planted, or something was missed."""
    wall_s: float
    cpu_s: float
    peak_gib: float
    """Of the whole process, the table of rows included."""


def table(hashes: np.ndarray, mirrors: np.ndarray, shape: tuple[int, int] = (500, 500)) -> pa.Table:
    """Make kept rows that differ in nothing but id, bytes and hashes."""
    rows = len(hashes)
    columns = {
        "id": [f"{i:032x}" for i in range(rows)],
        "sha256": [f"{i:064x}" for i in range(rows)],
        "pdq": [code.tobytes() for code in hashes],
        "pdq_mirror": [code.tobytes() for code in mirrors],
        "pdq_quality": np.full(rows, 100),
        "width_px": np.full(rows, shape[0]),
        "height_px": np.full(rows, shape[1]),
        "face_sharpness": [[50.0]] * rows,
        "bytes_len": np.arange(rows),
    }
    return pa.table(columns).select(COMPARED).cast(schema(COMPARED))


def alone(rows: int, semantic: bool) -> Speed:
    """Find the planted copies, in this process."""
    draw = np.random.default_rng(1)
    made = table(near_copies(rows, SHARE, 31), draw.integers(0, 256, (rows, 32), dtype=np.uint8))
    points = None
    if semantic:
        points = np.concatenate(
            [
                on_grid(draw.standard_normal((10_000, _DIM), np.float32))
                for _ in range(rows // 10_000)
            ]
        )
    settings = DedupeSettings(semantic_column="vectors" if semantic else "")
    began, before = time.perf_counter(), time.process_time()
    found = find_duplicates(made, settings, points).num_rows
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Speed(rows, found, wall_s, cpu_s, peak)


def measure(rows: int, semantic: bool = False) -> Speed:
    """Find the planted copies in a new process on two cores."""
    command = [sys.executable, "-m", "tests.bench.dedupe", "--alone", "--rows", str(rows)]
    told = subprocess.run(
        command + ["--semantic"] * semantic, stdout=subprocess.PIPE, check=True,
        preexec_fn=partial(os.sched_setaffinity, 0, (0, 1)),
    )  # fmt: skip
    return Speed(**json.loads(told.stdout))


def compared_all_s(rows: int) -> float:
    """Say what comparing all would take, mirrors too, from a sample with two threads."""
    hashes = near_copies(rows, SHARE, 31)
    index = faiss.IndexBinaryFlat(256)
    index.add(hashes)
    faiss.omp_set_num_threads(2)
    began = time.perf_counter()
    index.range_search(hashes[:_SAMPLE_ROWS], 32)
    return (time.perf_counter() - began) * 2 * rows / _SAMPLE_ROWS


@dataclass(frozen=True)
class Quality:
    """How many copies were found, and how many of what was found are copies."""

    recall: dict[str, float]
    """Share of the photographs that end in one group with their edit, by edit."""
    precision: float
    """Share of the pairs in one group that show one photograph."""

    @property
    def mean_recall(self) -> float:
        """Over all pairs of a photograph and its edit."""
        return float(np.mean(list(self.recall.values())))


def looked_at(tar: Path, number: int) -> tuple[pa.Table, np.ndarray]:
    """Edit photographs; hash all versions, and embed the largest face of each."""
    import cv2
    import torch

    from stages.hashes import pdq
    from stages.models.backend import load_detector, load_embedder

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    detector = load_detector("dlib", "", 300, 0.0, "cpu")
    embedder = load_embedder("dlib", "", "cpu")
    looks, vectors = [], []
    for seed, picture in enumerate(photographs(tar, number)):
        versions = [picture, *edited(picture, seed)]
        looks += [pdq(version) for version in versions]
        found = detector.detect(versions)
        own = np.full((len(versions), _DIM), np.nan, np.float32)
        seen = [i for i, faces in enumerate(found) if len(faces.scores)]
        chips = [embedder.align(versions[i], found[i].landmarks_px[:1]) for i in seen]
        if chips:
            own[seen] = embedder.embed(np.concatenate(chips))
        vectors.append(own)
    hashes, mirrors = (
        np.frombuffer(b"".join(look[k] for look in looks), np.uint8).reshape(-1, 32) for k in (0, 1)
    )
    return table(hashes, mirrors), on_grid(np.concatenate(vectors))


def judge(rows: pa.Table, points: np.ndarray | None) -> Quality:
    """Find copies among versions of photographs, which stand one after the other."""
    found = find_duplicates(rows, DedupeSettings(), points)
    keeper = list(range(rows.num_rows))
    for row in found.to_pylist():
        keeper[int(row["id"], 16)] = int(row["dup_of"], 16)
    together = np.array(keeper).reshape(-1, 1 + len(EDITS))
    recall = {
        name: float((together[:, 0] == together[:, 1 + i]).mean()) for i, name in enumerate(EDITS)
    }
    sizes = np.unique(together, return_counts=True)[1]
    pairs = (sizes * (sizes - 1) // 2).sum()
    true = sum((together[:, a] == together[:, b]).sum() for a, b in combinations(range(7), 2))
    return Quality(recall, float(true / max(pairs, 1)))


def _quality(data: Path) -> bool:
    rows, points = looked_at(data / "lfw-dev.tar", 1000)
    by_hash, with_faces = judge(rows, None), judge(rows, points)
    print(f"{'recall of':20}{'hash alone':>12}{'and face':>12}")
    for name in EDITS:
        print(f"{name:20}{by_hash.recall[name]:12.1%}{with_faces.recall[name]:12.1%}")
    print(f"{'all':20}{by_hash.mean_recall:12.2%}{with_faces.mean_recall:12.2%}  aim {MIN_RECALL}")
    print(f"{'precision':20}{by_hash.precision:12.3%}{with_faces.precision:12.3%}"
          f"  aim {MIN_PRECISION}")  # fmt: skip
    return with_faces.mean_recall >= MIN_RECALL and with_faces.precision >= MIN_PRECISION


def _speed(rows: int, semantic: bool) -> bool:
    quarter, whole = (measure(n, semantic) for n in (rows // 4, rows))
    for speed in (quarter, whole):
        print(f"{speed.rows:9,} rows  {speed.wall_s:6.1f} s  {speed.cpu_s:6.1f} s CPU  "
              f"{speed.peak_gib:5.2f} GiB  {speed.found:,} copies")  # fmt: skip
    growth, brute_s = whole.wall_s / quarter.wall_s, compared_all_s(rows)
    print(f"growth {growth:.1f} x for 4 x the rows; by CPU {whole.cpu_s / quarter.cpu_s:.1f} x")
    print(f"comparing all would take {brute_s:,.0f} s: {brute_s / whole.wall_s:,.0f} x as long")
    return (
        whole.found == round(rows * SHARE)
        and whole.wall_s <= MAX_S
        and whole.peak_gib <= MAX_GIB
        and growth <= MAX_GROWTH
    )


def main() -> int:
    """Print what was measured; return 1 when a demand is not met."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--semantic", action="store_true", help="compare embeddings too")
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--data", type=Path, default=os.environ.get("VISAGE_TEST_DATA"))
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.alone:
        print(json.dumps(asdict(alone(asked.rows, asked.semantic))))
        return 0
    if asked.quality and not (asked.data and (Path(asked.data) / "lfw-dev.tar").is_file()):
        parser.error(f"{asked.data} has no lfw-dev.tar; give its folder with --data")
    good = _quality(Path(asked.data)) if asked.quality else _speed(asked.rows, asked.semantic)
    print("all demands are met" if good else "a demand is NOT met")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
