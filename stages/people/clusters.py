"""Who is who by vectors alone: faces to identities."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from infra.errors import BadInput
from stages.models.faces import GroupingPoints
from stages.people.graph import Neighbours, Points, knn_graph, prepare
from stages.people.linkage import Groups, Labels, Pairs, agglomerate, graph_pairs
from stages.people.thresholds import Limits
from stages.spread import HERE, Spread

REASONS: dict[str, str] = {
    "bad_embedding": "the identity vector holds NaN or infinity, or is zero",
    "lone_face": "no other photo, or too few, shows this person",
}
"""Why a face belongs to nobody."""

_RIVALS_UP_TO = 2.0
"""In units of the group limit: further away than this, another identity is no rival."""


@dataclass(frozen=True, slots=True)
class People:
    """Who every face is, in the order in which the faces were given."""

    identity: list[str]
    """32 hex digits, the same for all faces of one person; empty for a face of nobody."""
    score: Float32[np.ndarray, " faces"]
    """How clearly a face is of its identity and of no other, 0 to 1: see ``silhouettes``."""
    reason: list[str]
    """Empty, or one of ``REASONS``."""


def find_people(
    ids: Sequence[str],
    vectors: Float[np.ndarray, "faces dim"],
    points: GroupingPoints,
    *,
    k: int = 32,
    min_photos: int = 2,
    spread: Spread = HERE,
) -> People:
    """Group faces into identities.

    Neighbours come from ``knn_graph`` and groups from ``agglomerate``, which says why no chain of
    look-alikes joins two people. The answer depends on the set of faces alone, not on the order in
    which they are given.

    Args:
        ids: A different text per face; an identity is named after the smallest of its own.
        vectors: Identity vectors as the embedder gives them.
        points: At which distances, see ``thresholds.grouping_points``.
        k: Neighbours that every face is compared with at first.
        min_photos: An identity of fewer faces is none; 1 lets every face be somebody.
        spread: Who looks for neighbours; the rest is done in this process.

    Raises:
        BadInput: Two faces have one id, or there is not one id per vector.
    """
    order = by_id(ids, len(vectors))
    prepared, good = prepare(vectors[order], points.metric)
    rows = np.flatnonzero(good)
    limits = Limits.of(points)
    graph = knn_graph(prepared[rows], k, spread)
    labels, groups = group_faces(prepared[rows], graph, limits)
    scores = silhouettes(prepared[rows], labels, groups, graph, limits)

    identity, reason = [""] * len(ids), ["bad_embedding"] * len(ids)
    score = np.zeros(len(ids), np.float32)
    names = [""] * len(groups.counts)
    large = groups.counts >= min_photos
    for row, label, face_score in zip(order[rows], labels, scores, strict=True):
        if large[label]:
            # Faces stand by id, so the first that is met has the smallest.
            names[label] = names[label] or name_of(ids[row])
            identity[row], score[row] = names[label], face_score
        reason[row] = "" if large[label] else "lone_face"
    return People(identity, score, reason)


def by_id(ids: Sequence[str], rows: int) -> Int64[np.ndarray, " faces"]:
    """Return the order of ids, and refuse those that name no face or two.

    Raises:
        BadInput: Two faces have one id, or there is not one id per vector.
    """
    if len(ids) != rows:
        raise BadInput(f"{len(ids)} ids were given with {rows} vectors. Give one id per vector.")
    order = sorted(range(len(ids)), key=ids.__getitem__)
    twice = next((ids[b] for a, b in pairwise(order) if ids[a] == ids[b]), None)
    if twice is not None:
        raise BadInput(f"Two faces have the id {twice!r}. Give every face an id of its own.")
    return np.array(order, np.int64)


def name_of(smallest_id: str) -> str:
    """Name an identity: 32 hex digits, BLAKE2b-128 of the smallest id among its faces."""
    return blake2b(smallest_id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def group_faces(points: Points, graph: Neighbours, limits: Limits) -> tuple[Labels, Groups]:
    """Group prepared vectors along the edges of their graph.

    A face with more photos of its own than the graph has neighbours sees nobody else's, so two
    halves of a much-photographed person may not know of each other. In the end large groups are
    therefore compared by their centres.
    """
    singles = np.arange(len(points))
    groups = Groups.of(points, singles, len(points))
    pairs = graph_pairs(graph, limits.group)
    labels, groups = agglomerate(groups, pairs, limits.pair, limits.group)
    k = graph.rows.shape[1]
    # Each round leaves fewer groups.
    while len(more := large_pairs(groups, k, limits.group)):
        into, groups = agglomerate(groups, more, limits.pair, limits.group)
        if len(groups.counts) == labels.max(initial=-1) + 1:
            break
        labels = into[labels]
    return labels, groups


def large_pairs(groups: Groups, k: int, limit: float) -> Pairs:
    """Return pairs of groups of more than half of ``k`` members that are near by their centres."""
    large = np.flatnonzero(groups.counts > k // 2)
    if len(large) < 2:
        return np.empty((0, 2), np.int64)
    centres = (groups.sums[large] / groups.counts[large, None]).astype(np.float32)
    near = knn_graph(centres, 8)
    # Centres are never further apart than members are on average.
    return np.asarray(large[graph_pairs(near, limit)])


def silhouettes(
    points: Points, labels: Labels, groups: Groups, graph: Neighbours, limits: Limits
) -> Float32[np.ndarray, " faces"]:
    """Score how clearly every face is of its own group and of no other.

    With *own* the mean squared distance to the other faces of its group and *rival* the least mean
    squared distance to another group among its neighbours in the graph, but at most twice the group
    limit, the score is ``1 - own / rival``, and 0 where that is negative: 0 is a face as near to
    somebody else, 1 one that equals all its fellows. A face alone in its group has 0.

    References:
        Rousseeuw, "Silhouettes", Journal of Computational and Applied Mathematics 20, 1987.
    """
    faces = np.arange(len(points))
    rival = nearest_other(points, labels, labels, groups, graph, _RIVALS_UP_TO * limits.group)
    own = groups.from_members(points, faces, labels)
    score = np.clip(1 - own / rival, 0, 1)
    score[groups.counts[labels] < 2] = 0
    return np.asarray(score, dtype=np.float32)


def nearest_other(
    points: Points,
    own: Labels,
    labels: Labels,
    groups: Groups,
    graph: Neighbours,
    at_most: float,
) -> Float64[np.ndarray, " faces"]:
    """Return each face's least mean squared distance to a group that is not its own.

    Args:
        points: Prepared vectors.
        own: The group that each face is not compared with; negative: with none.
        labels: The group that each face is a member of; negative: of none.
        groups: What ``labels`` make of ``points``.
        graph: Only the groups of a face's neighbours are looked at.
        at_most: Returned where no group is nearer.
    """
    faces, column = np.nonzero((graph.rows >= 0) & (graph.squared < 2 * at_most))
    theirs = labels[graph.rows[faces, column]]
    rivals: Bool[np.ndarray, " pairs"] = (theirs >= 0) & (theirs != own[faces])
    size = max(len(groups.counts), 1)
    faces, theirs = np.divmod(np.unique(faces[rivals] * size + theirs[rivals]), size)
    least = np.full(len(points), at_most)
    np.minimum.at(least, faces, groups.from_faces(points, faces, theirs))
    return least
