"""Copies among a million pictures: how fast they are found, and how surely.

    python -m tests.bench.dedupe [--rows 1000000] [--semantic]
    python -m tests.bench.dedupe --quality [--photos 4937] --data FOLDER

The first makes hashes at random, of which 5 % are near copies of others, and finds all groups: on
a quarter of the rows and on all, each in a process of its own on two cores. Mirrors are asked for
too. As the baseline, some of the rows are compared with all by faiss; the rest is extrapolated.
``--semantic`` gives every row an embedding of 128 numbers and compares these as well.

The second edits 1,000 photographs of ``lfw-dev.tar`` in six ways and looks for the copies, by
hashes alone and, as by default, with the embeddings of the faces that dlib finds. Counted are pairs
of a photograph and its edit, and for the precision all pairs that end in one group. The thresholds
were chosen on half of the people, so the other half is told apart.
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
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

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
REPEATED = [
    ("Alejandro_Avila/Alejandro_Avila_0003.jpg", "Philip_Zalewski/Philip_Zalewski_0001.jpg"),
    ("Bart_Hendricks/Bart_Hendricks_0001.jpg", "Ricky_Ray/Ricky_Ray_0001.jpg"),
    ("Bob_Hope/Bob_Hope_0002.jpg", "Jane_Russell/Jane_Russell_0001.jpg"),
    ("Carlos_Beltran/Carlos_Beltran_0001.jpg", "Raul_Ibanez/Raul_Ibanez_0001.jpg"),
    ("Emmy_Rossum/Emmy_Rossum_0001.jpg", "Eva_Amurri/Eva_Amurri_0001.jpg"),
    ("Julianne_Moore/Julianne_Moore_0001.jpg", "Julianne_Moore/Julianne_Moore_0008.jpg"),
    ("Renee_Zellweger/Renee_Zellweger_0010.jpg", "Renee_Zellweger/Renee_Zellweger_0013.jpg"),
]
"""Photographs that LFW has twice, mostly cropped differently: all pairs of different files that the
defaults join, each looked at."""
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
    settings = DedupeSettings()
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


class Versions(NamedTuple):
    """Photographs and their edits, which stand one after the other."""

    names: list[str]
    """Of the photographs."""
    rows: pa.Table
    points: np.ndarray

    def of(self, photos: np.ndarray) -> "Versions":
        """Return some photographs, with their edits."""
        each = 1 + len(EDITS)
        rows = (np.flatnonzero(photos)[:, None] * each + np.arange(each)).ravel()
        names = [name for name, taken in zip(self.names, photos, strict=True) if taken]
        return Versions(names, self.rows.take(pa.array(rows)), self.points[rows])

    def seen(self) -> np.ndarray:
        """Say of which photographs the person is in the half that thresholds were chosen on."""
        people = [name.partition("/")[0] for name in self.names]
        return np.array([blake2b(f"half {who}".encode()).digest()[0] % 2 == 0 for who in people])


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


def looked_at(tar: Path, number: int) -> Versions:
    """Edit photographs; hash all versions, and embed the largest face of each."""
    import cv2
    import torch

    from stages.hashes import pdq
    from stages.models.backend import load_detector, load_embedder

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    detector = load_detector("dlib", "", 300, 0.0, "cpu")
    embedder = load_embedder("dlib", "", "cpu")
    names, looks, vectors = [], [], []
    for seed, (name, picture) in enumerate(photographs(tar, number)):
        versions = [picture, *edited(picture, seed)]
        names.append(name)
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
    return Versions(names, table(hashes, mirrors), on_grid(np.concatenate(vectors)))


def judge(versions: Versions, *, faces: bool = True) -> Quality:
    """Find copies among versions of photographs by the default settings."""
    ids = versions.rows["id"].to_pylist()
    at = {name: row for row, name in enumerate(ids)}
    keeper = np.arange(len(ids))
    found = find_duplicates(versions.rows, DedupeSettings(), versions.points if faces else None)
    for row in found.to_pylist():
        keeper[at[row["id"]]] = at[row["dup_of"]]
    together = keeper.reshape(-1, 1 + len(EDITS))
    recall = {
        name: float((together[:, 0] == together[:, 1 + i]).mean()) for i, name in enumerate(EDITS)
    }
    same = dict(REPEATED)
    shown = np.repeat([same.get(name, name) for name in versions.names], 1 + len(EDITS))
    _, photo = np.unique(shown, return_inverse=True)
    pairs, true = (
        _pairs(groups) for groups in (keeper, keeper * (photo.max(initial=0) + 1) + photo)
    )
    return Quality(recall, true / max(pairs, 1))


def _pairs(groups: np.ndarray) -> int:
    """Count the pairs that are in one group."""
    sizes = np.unique(groups, return_counts=True)[1]
    return int((sizes * (sizes - 1) // 2).sum())


def _quality(data: Path, photos: int) -> bool:
    versions = looked_at(data / "lfw-dev.tar", photos)
    seen = versions.seen()
    found = {
        "hash alone": judge(versions, faces=False),
        "default": judge(versions),
        "seen half": judge(versions.of(seen)),
        "other half": judge(versions.of(~seen)),
    }
    print(f"{f'recall, {photos:,} photos':22}" + "".join(f"{name:>12}" for name in found))
    for name in EDITS:
        print(f"{name:22}" + "".join(f"{each.recall[name]:12.1%}" for each in found.values()))
    print(f"{'all':22}" + "".join(f"{each.mean_recall:12.2%}" for each in found.values()))
    print(f"{'precision':22}" + "".join(f"{each.precision:12.3%}" for each in found.values()))
    print(f"aims: recall {MIN_RECALL}, precision {MIN_PRECISION}")
    judged = (found["default"], found["other half"])
    return all(q.mean_recall >= MIN_RECALL and q.precision >= MIN_PRECISION for q in judged)


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
    parser.add_argument("--photos", type=int, default=1000, help="photographs that are edited")
    parser.add_argument("--data", type=Path, default=os.environ.get("VISAGE_TEST_DATA"))
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.alone:
        print(json.dumps(asdict(alone(asked.rows, asked.semantic))))
        return 0
    if asked.quality and not (asked.data and (Path(asked.data) / "lfw-dev.tar").is_file()):
        parser.error(f"{asked.data} has no lfw-dev.tar; give its folder with --data")
    if asked.quality:
        good = _quality(Path(asked.data), asked.photos)
    else:
        good = _speed(asked.rows, asked.semantic)
    print("all demands are met" if good else "a demand is NOT met")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
