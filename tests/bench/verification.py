"""Does identity work? Face verification on Labeled Faces in the Wild, on one core.

    python -m tests.bench.verification --data FOLDER

FOLDER (by default what VISAGE_TEST_DATA names) holds ``lfw-dev.tar``, photographs as
``Name/Name_0001.jpg``, and ``lfw-dev-pairs.csv`` with the columns ``a,b,same``. Every photograph
is searched for faces. The main face is the one nearest to the middle, since LFW centres each
photograph on its subject. Two photographs are called one person when their vectors are nearer than
the embedder's own threshold, which nothing here has tuned.

Then the same photographs are asked what protecting people costs (``serving.people.protected``): at
its bound, how many faces of others would be refused (all pairs of different people), and how many
photographs of a protected person would pass (the labelled pairs of one person).

References:
    Huang et al., "Labeled Faces in the Wild", UMass Amherst technical report 07-49, 2007.
"""

import argparse
import csv
import os
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from serving.people.protected import bound
from stages.models.backend import load_detector, load_embedder
from stages.models.faces import Detections, distance
from stages.types import RGB

DETECT_PX = 300  # the photographs are 150 px, and are at most doubled
MIN_FOUND, MIN_ACCURACY = 0.99, 0.985
_PHOTOS_AT_ONCE = 64

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Protection:
    """What it costs to protect people, at one cosine distance."""

    below: float
    pairs: int
    """Of different people."""
    false_alarms: float
    """Share of them that are nearer."""
    misses: float
    """Share of the labelled pairs of one person that are not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What was measured."""

    photos: int
    photos_with_face: int
    pairs: int
    pairs_judged: int
    """Pairs whose two photographs have a face; the rates below are over these."""
    threshold: float
    false_matches: float
    """Share of the different-person pairs that are called one person."""
    false_non_matches: float
    """Share of the same-person pairs that are called two people."""
    accuracy: float
    photos_per_s: float
    """Decoding, detection, alignment and embedding, on one core."""
    protection: "Protection"

    @property
    def found(self) -> float:
        """Share of the photographs in which a face was found."""
        return self.photos_with_face / self.photos

    @property
    def good(self) -> bool:
        """Whether both demands are met."""
        return self.found >= MIN_FOUND and self.accuracy >= MIN_ACCURACY


def measure(
    data: Path, *, backend: str = "dlib", pack: str = "", min_score: float = 0.0
) -> Verification:
    """Search and embed every photograph under ``data``, then judge its pairs."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    detector = load_detector(backend, pack, DETECT_PX, min_score, "cpu")
    embedder = load_embedder(backend, pack, "cpu")
    vectors: dict[str, Vector] = {}
    photos = 0
    began = time.perf_counter()
    for names, pictures in _batches(data / "lfw-dev.tar"):
        photos += len(names)
        found = detector.detect(pictures)
        whose, chips = [], []
        for name, picture, faces in zip(names, pictures, found, strict=True):
            if len(faces.scores):
                main = most_central(faces, picture)
                whose.append(name)
                chips.append(embedder.align(picture, faces.landmarks_px[main : main + 1]))
        if chips:
            vectors |= zip(whose, embedder.embed(np.concatenate(chips)), strict=True)
    seconds = time.perf_counter() - began
    with (data / "lfw-dev-pairs.csv").open() as file:
        pairs = list(csv.DictReader(file))
    judged = [pair for pair in pairs if pair["a"] in vectors and pair["b"] in vectors]
    a, b = (np.stack([vectors[pair[side]] for pair in judged]) for side in ("a", "b"))
    same = np.array([pair["same"] == "1" for pair in judged])
    matched = distance(a, b, embedder.metric) < embedder.same_person_below
    return Verification(
        photos=photos,
        photos_with_face=len(vectors),
        pairs=len(pairs),
        pairs_judged=len(judged),
        threshold=embedder.same_person_below,
        false_matches=float(matched[~same].mean()),
        false_non_matches=float((~matched[same]).mean()),
        accuracy=float((matched == same).mean()),
        photos_per_s=photos / seconds,
        protection=protect(vectors, distance(a, b, "cosine")[same], bound(backend).below),
    )


def protect(vectors: dict[str, Vector], same: Vector, below: float) -> Protection:
    """Compare every photograph with every one of somebody else.

    Args:
        vectors: By ``Name/Name_0001.jpg``.
        same: Distances of labelled pairs of one person.
        below: At which a face counts as a protected person's.
    """
    people = np.array([Path(name).parent.name for name in vectors])
    units = np.stack([vector / np.linalg.norm(vector) for vector in vectors.values()])
    pairs = nearer = 0
    for i in range(len(units) - 1):
        others = people[i + 1 :] != people[i]
        distances = 1 - units[i + 1 :][others] @ units[i]
        pairs, nearer = pairs + len(distances), nearer + int((distances < below).sum())
    return Protection(
        below=below,
        pairs=pairs,
        false_alarms=nearer / pairs,
        misses=float((same >= below).mean()),
    )


def most_central(faces: Detections, picture: RGB) -> int:
    """Return the index of the face whose box is centred nearest to the picture's middle."""
    middles = (faces.boxes_px[:, :2] + faces.boxes_px[:, 2:]) / 2
    height, width = picture.shape[:2]
    return int(np.linalg.norm(middles - [width / 2, height / 2], axis=1).argmin())


def _batches(tar: Path) -> Iterator[tuple[list[str], list[RGB]]]:
    """Yield names and decoded photographs, 64 at a time."""
    names: list[str] = []
    pictures: list[RGB] = []
    with tarfile.open(tar) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is None:
                continue
            bgr = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)
            names.append(member.name)
            pictures.append(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
            if len(names) == _PHOTOS_AT_ONCE:
                yield names, pictures
                names, pictures = [], []
    if names:
        yield names, pictures


def main() -> int:
    """Print what was measured; return 1 when a demand is not met."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = os.environ.get("VISAGE_TEST_DATA")
    parser.add_argument("--data", type=Path, default=default, required=default is None)
    parser.add_argument("--backend", choices=["dlib", "insightface"], default="dlib")
    parser.add_argument("--pack", default="", help="insightface's model pack")
    given = parser.parse_args()
    if not (given.data / "lfw-dev.tar").is_file():
        parser.error(f"{given.data} has no lfw-dev.tar; give its folder with --data")
    floor = 0.0 if given.backend == "dlib" else 0.5
    m = measure(given.data, backend=given.backend, pack=given.pack, min_score=floor)
    print(f"backend             {given.backend}; main face: the most central")
    print(f"photos with a face  {m.found:.2%} of {m.photos} (demanded: {MIN_FOUND:.1%})")
    print(
        f"accuracy            {m.accuracy:.2%} of {m.pairs_judged} pairs judged, of {m.pairs}, "
        f"at {m.threshold} (demanded: {MIN_ACCURACY:.1%})"
    )
    print(f"false matches       {m.false_matches:.2%} of the different-person pairs")
    print(f"false non-matches   {m.false_non_matches:.2%} of the same-person pairs")
    print(f"photos per second   {m.photos_per_s:.1f} on one core")
    p = m.protection
    print(
        f"protecting people   at a cosine distance of {p.below} {p.false_alarms:.3%} of the others "
        f"would be refused ({p.pairs:,} pairs),\n                    and {p.misses:.1%} of the "
        "person's own photographs would pass, with one on the list"
    )
    print("both demands are met" if m.good else "a demand is NOT met")
    return 0 if m.good else 1


if __name__ == "__main__":
    raise SystemExit(main())
