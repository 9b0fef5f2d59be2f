"""Measure photos that are brought together for training, on Labeled Faces in the Wild.

``python -m tests.bench.people --pairs`` prints it: how many pairs, triplets and groups are of one
person by label, where labels were not looked at, and where they were cleaned.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from stages.hashes import pdq
from stages.models.backend import load_detector, load_embedder
from stages.people.identify import identify
from stages.people.pairs import Photos, aligned, match, pdq_distances
from stages.people.settings import PairSettings, PeopleSettings
from stages.people.thresholds import grouping_points
from stages.pose import head_pose
from tests.bench.verification import DETECT_PX, _batches, most_central

MIN_SAME, MAX_PDQ = 0.995, 31


@dataclass(frozen=True)
class Paired:
    """What the pairs of a corpus are worth whose labels were not looked at."""

    kind: str
    matches: int
    people: int
    same: float
    """Share whose reference and target are one person by label."""
    other: float
    """Share whose third photo is another person by label."""
    least_pdq: int


@dataclass(frozen=True)
class Looked:
    """What curation would know of the main face of every photograph."""

    ids: list[str]
    vectors: npt.NDArray[np.float32]
    hashes: npt.NDArray[np.uint8]
    """Photographs x 2 x 32: PDQ, and PDQ of the mirror image."""
    five: npt.NDArray[np.float32]


def look(data: Path) -> Looked:
    """Find, embed and hash every photograph; a minute or two."""
    torch.set_num_threads(2)
    cv2.setNumThreads(1)
    detector = load_detector("dlib", "", DETECT_PX, 0.0, "cpu")
    embedder = load_embedder("dlib", "", "cpu")
    ids, chips, hashes, points = [], [], [], []
    for names, pictures in _batches(data / "lfw-dev.tar"):
        for name, picture, faces in zip(names, pictures, detector.detect(pictures), strict=True):
            if len(faces.scores):
                main = most_central(faces, picture)
                own = faces.landmarks_px[main : main + 1]
                ids.append(name)
                points.append(own)
                chips.append(embedder.align(picture, own))
                hashes.append([list(bits) for bits in pdq(picture)[:2]])
    vectors = embedder.embed(np.concatenate(chips))
    return Looked(ids, vectors, np.array(hashes, np.uint8), np.concatenate(points))


def paired(
    seen: Looked, settings: PairSettings, *, use_labels: bool
) -> tuple[list[Paired], dict[str, int]]:
    """Group photographs, by labels that are cleaned or without, and choose pairs."""
    ids, five = seen.ids, seen.five
    labels = [name.partition("/")[0] for name in ids]
    people = PeopleSettings(labels="use" if use_labels else "ignore")
    limits = grouping_points("dlib")
    who = identify(ids, seen.vectors, labels, people, limits)
    sure = [row for row in range(len(ids)) if who.score[row] >= settings.min_score]
    sure = [row for row in sure if who.identity[row]]
    photos = Photos(
        ids=[ids[row] for row in sure],
        identities=[who.identity[row] for row in sure],
        vectors=seen.vectors[sure],
        pdq=seen.hashes[sure, 0],
        pdq_mirror=seen.hashes[sure, 1],
        poses_deg=head_pose(five[sure], "dlib5")[:, :2].astype(np.float64),
        landmarks=aligned(five[sure], "dlib5"),
    )
    found = match(photos, limits, settings)
    name = [labels[row] for row in sure]
    measured = []
    for kind in settings.kinds:
        some = [each for each in found if each.kind == kind]
        same = [name[each.reference] == name[each.target] for each in some]
        other = [name[each.reference] != name[each.other] for each in some]
        bits = pdq_distances(
            photos, np.array([e.reference for e in some]), np.array([e.target for e in some])
        )
        persons = len({name[each.reference] for each in some})
        measured.append(
            Paired(kind, len(some), persons, float(np.mean(same)), float(np.mean(other)),
                   int(bits.min()))
        )  # fmt: skip
    strata = Counter(each.stratum for each in found if each.kind == "pair")
    return measured, dict(sorted(strata.items()))


def tell_pairs(data: Path) -> bool:
    """Print what pairs are worth; say whether that is good."""
    good, seen = True, look(data)
    for use_labels in (False, True):
        print("labels cleaned and used" if use_labels else "labels not looked at")
        measured, strata = paired(seen, PairSettings(), use_labels=use_labels)
        for p in measured:
            good &= p.same >= MIN_SAME and p.least_pdq > MAX_PDQ
            third = "" if p.kind == "pair" else f", {p.other:.2%} of the third somebody else"
            print(
                f"  {p.kind:<17} {p.matches:,} of {p.people:,} people, {p.same:.2%} one person "
                f"(demanded {MIN_SAME:.1%}){third}, least PDQ distance {p.least_pdq} (demanded: "
                f"above {MAX_PDQ})"
            )
        print(f"  pairs by stratum  {strata}")
    return good
