"""Photos brought together for training: two of a person, and others that make it harder.

A model that is shown a photo and asked for the same photo learns to copy it. So what it is shown
and what it is asked for are two photos of one person, as different as that person's photos are.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8

from stages.landmarks import mean_face, similarity
from stages.models.faces import GroupingPoints, LandmarkScheme
from stages.people.graph import knn_graph, prepare
from stages.people.settings import PairSettings
from stages.people.thresholds import Limits

_POSE_ENDS_DEG = (5.0, 12.0, 20.0, 35.0)
_LANDMARK_ENDS = (0.04, 0.08)
_PHOTOS = 24
"""Photos of one identity that are compared with each other; of more, so many are drawn."""
_NEIGHBOURS = 64
"""Among so many nearest faces somebody else is looked for."""

Numbers = Int64[np.ndarray, " photos"]


@dataclass(frozen=True, slots=True)
class Photos:
    """The main faces of photos whose identity is known."""

    ids: list[str]
    identities: list[str]
    vectors: Float32[np.ndarray, "photos dim"]
    pdq: UInt8[np.ndarray, "photos 32"]
    pdq_mirror: UInt8[np.ndarray, "photos 32"]
    poses_deg: Float64[np.ndarray, "photos 2"]
    """Yaw and pitch; roll is undone when a face is aligned."""
    landmarks: Float64[np.ndarray, "photos 5 2"]
    """Aligned, see ``aligned``."""


@dataclass(frozen=True, slots=True)
class Match:
    """Photos that belong together, by their numbers in ``Photos``."""

    id: str
    """32 hex digits: BLAKE2b-128 of the kind and of the photos' ids."""
    kind: str
    reference: int
    target: int
    """Another photo of the person on ``reference``."""
    other: int
    """A photo of somebody else; -1 for a pair."""
    stratum: str
    """How far poses and landmarks of reference and target are apart: ``pose2-landmarks0``."""
    pose_gap_deg: float
    landmark_gap: float
    """Root mean square distance of the five aligned points, in eye distances."""
    pdq_distance: int
    """Differing bits of reference and target, or its mirror image if those are fewer."""


def aligned(
    points: Float32[np.ndarray, "photos 5 2"], scheme: LandmarkScheme
) -> Float64[np.ndarray, "photos 5 2"]:
    """Turn, scale and shift five points onto the mean face; the unit is its eye distance.

    What remains between two photos of a person is expression, and pose out of the picture's plane.
    """
    turns = similarity(points, mean_face(scheme)[:, :2])
    return np.asarray(np.einsum("fij,fpj->fpi", turns[:, :, :2], points) + turns[:, None, :, 2])


def match(photos: Photos, points: GroupingPoints, settings: PairSettings) -> list[Match]:
    """Choose pairs, triplets and groups; the same set of photos and seed give the same ones.

    *Pairs* (CrossFaceID): ordered pairs of photos of an identity that are not nearly one photo,
    dealt out from strata by how much pose and landmarks differ, so that the rare large differences
    are not lost among small ones.

    *Triplets*: the first pair of every reference, and the nearest face of another identity that is
    not so near that it could be the same person after all.

    *Groups* (AIDT, DreamID): a person in two poses, and somebody else in the pose of the first.

    Args:
        photos: Whose identity is known.
        points: The embedder's distances.
        settings: Which, and how many.

    Returns:
        Matches, ordered by id.

    References:
        CrossFaceID, arXiv:2501.15407; Ye et al., "DreamID", arXiv:2504.14509.
    """
    lots = np.array([_lot(f"{settings.seed} {name}") for name in photos.ids], np.uint64)
    rows = _by_identity(photos, lots)
    pairs = [pair for own in rows for pair in _pairs(photos, own, lots, settings)]
    pairs_of: dict[int, list[Match]] = defaultdict(list)
    for pair in pairs:
        pairs_of[pair.reference].append(pair)
    found = list(pairs) if "pair" in settings.kinds else []
    if "triplet" in settings.kinds:
        found += _triplets(photos, points, pairs_of)
    if "group" in settings.kinds:
        found += _groups(photos, lots, pairs_of, settings)
    return sorted(found, key=lambda each: each.id)


def _lot(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _by_identity(photos: Photos, lots: npt.NDArray[np.uint64]) -> list[Numbers]:
    """Return the photos of every identity that has two, at most ``_PHOTOS``, in a drawn order."""
    own: dict[str, list[int]] = defaultdict(list)
    for row in np.argsort(lots, kind="stable").tolist():
        if photos.identities[row]:
            own[photos.identities[row]].append(row)
    chosen = (own[name][:_PHOTOS] for name in sorted(own))
    return [np.array(rows, np.int64) for rows in chosen if len(rows) > 1]


def _pairs(
    photos: Photos, own: Numbers, lots: npt.NDArray[np.uint64], settings: PairSettings
) -> Iterator[Match]:
    """Deal out the pairs of one identity, one of every stratum in turn."""
    first, second = (axis.ravel() for axis in np.meshgrid(own, own, indexing="ij"))
    bits = pdq_distances(photos, first, second)
    apart: Bool[np.ndarray, " pairs"] = (first != second) & (bits >= settings.min_pdq_distance)
    first, second, bits = first[apart], second[apart], bits[apart]
    poses = np.linalg.norm(photos.poses_deg[first] - photos.poses_deg[second], axis=1)
    gaps = photos.landmarks[first] - photos.landmarks[second]
    shapes = np.sqrt(np.square(gaps).sum(axis=2).mean(axis=1))
    pose_bins = np.digitize(poses, _POSE_ENDS_DEG)
    shape_bins = np.digitize(shapes, _LANDMARK_ENDS)
    stratum = pose_bins * (len(_LANDMARK_ENDS) + 1) + shape_bins
    # The order of a pair's photos matters, so their lots are not simply added.
    drawn = lots[first] * np.uint64(0x9E3779B97F4A7C15) + lots[second]
    order = np.lexsort((drawn, stratum))
    _, starts, counts = np.unique(stratum[order], return_index=True, return_counts=True)
    turn = np.arange(len(order)) - np.repeat(starts, counts)
    for at in order[np.lexsort((-stratum[order], turn))][: settings.per_identity]:
        yield Match(
            id=_name("pair", photos.ids[first[at]], photos.ids[second[at]]),
            kind="pair",
            reference=int(first[at]),
            target=int(second[at]),
            other=-1,
            stratum=f"pose{pose_bins[at]}-landmarks{shape_bins[at]}",
            pose_gap_deg=float(poses[at]),
            landmark_gap=float(shapes[at]),
            pdq_distance=int(bits[at]),
        )


def pdq_distances(photos: Photos, first: Numbers, second: Numbers) -> Numbers:
    """Count the differing bits of pairs of photos, or of one and the other's mirror image."""
    plain = np.bitwise_count(photos.pdq[first] ^ photos.pdq[second]).sum(axis=1, dtype=np.int64)
    mirrored = np.bitwise_count(photos.pdq[first] ^ photos.pdq_mirror[second])
    return np.asarray(np.minimum(plain, mirrored.sum(axis=1, dtype=np.int64)))


def _name(*parts: str) -> str:
    return blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def _with_other(photos: Photos, kind: str, pair: Match, other: int) -> Match:
    parents = (photos.ids[row] for row in (pair.reference, pair.target, other))
    return Match(
        _name(kind, *parents), kind, pair.reference, pair.target, other, pair.stratum,
        pair.pose_gap_deg, pair.landmark_gap, pair.pdq_distance,
    )  # fmt: skip


def _triplets(
    photos: Photos, points: GroupingPoints, pairs_of: dict[int, list[Match]]
) -> Iterator[Match]:
    """Add to the first pair of every photo the nearest somebody else."""
    # By id, so that equal distances and approximate neighbours do not depend on the order.
    order = np.array(sorted(range(len(photos.ids)), key=photos.ids.__getitem__), np.int64)
    prepared, good = prepare(photos.vectors[order], points.metric)
    order, prepared = order[good], prepared[good]
    names = np.array(photos.identities)[order]
    graph = knn_graph(prepared, _NEIGHBOURS)
    limit = Limits.of(points).group
    strangers = (graph.rows >= 0) & (graph.squared > limit)
    strangers &= (names[graph.rows] != names[:, None]) & (names[graph.rows] != "")
    for at, row in enumerate(order.tolist()):
        if row in pairs_of and strangers[at].any():
            nearest = graph.rows[at, int(strangers[at].argmax())]
            yield _with_other(photos, "triplet", pairs_of[row][0], int(order[nearest]))


def _groups(
    photos: Photos,
    lots: npt.NDArray[np.uint64],
    pairs_of: dict[int, list[Match]],
    settings: PairSettings,
) -> Iterator[Match]:
    """Add to a pair of two poses somebody else in the pose of the first."""
    # Two poses in one cell of this grid are never further apart than same_pose_deg.
    side = max(settings.same_pose_deg, 1e-6) / 2**0.5
    cells: dict[tuple[int, int], list[int]] = defaultdict(list)
    turned = np.floor(photos.poses_deg / side).astype(np.int64)
    for row in np.argsort(lots, kind="stable").tolist():
        if photos.identities[row]:
            cells[turned[row, 0], turned[row, 1]].append(row)
    for cell in cells.values():
        for place, row in enumerate(cell):
            turn = (p for p in pairs_of.get(row, ()) if p.pose_gap_deg >= settings.other_pose_deg)
            pair = next(turn, None)
            other = _somebody_else(photos.identities, cell, place)
            if pair is not None and other >= 0:
                yield _with_other(photos, "group", pair, other)


def _somebody_else(identities: Sequence[str], cell: Sequence[int], place: int) -> int:
    """Return the next photo of a cell that shows another identity, -1 if there is none."""
    mine = identities[cell[place]]
    around = (cell[(place + step) % len(cell)] for step in range(1, min(len(cell), 256)))
    return next((row for row in around if identities[row] != mine), -1)


def gaps(
    photos: Photos, first: Numbers, second: Numbers
) -> tuple[Float[np.ndarray, " pairs"], Float[np.ndarray, " pairs"]]:
    """Return cosine similarity of vectors and angle between poses, in degrees, of pairs."""
    a, b = photos.vectors[first].astype(np.float64), photos.vectors[second].astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.einsum("pd,pd->p", a, b) / np.maximum(norms, 1e-12)
    return cosines, np.linalg.norm(photos.poses_deg[first] - photos.poses_deg[second], axis=1)
