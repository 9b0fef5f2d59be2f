"""Clean labels by the vectors behind them: CAST's filtering for an embedder that stays as it is.

Folders, names and search queries say who is on a photo, and are often wrong. WebFace260M cleans
them by training a network on what was kept and starting over. Here the embedder is given, so what
is repeated is the rest: centres are made of what was kept, and faces judged by the centres.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from infra.errors import BadInput
from stages.models.faces import GroupingPoints
from stages.people.cast_steps import (
    State,
    Step,
    keep_largest_groups,
    merge_labels,
    overlap,
    repeated,
    scores,
    settle,
    small,
)
from stages.people.clusters import by_id
from stages.people.graph import knn_graph, prepare
from stages.people.thresholds import Limits
from stages.spread import HERE, Spread

CAST_REASONS: dict[str, str] = {
    "bad_embedding": "the identity vector holds NaN or infinity, or is zero",
    "no_label": "the source names nobody",
    "unsupported_label": "no other photo of the label shows the same person",
    "not_the_person": "another person than most photos of the label, by distance",
    "doubtful_face": "hardly nearer to the label's person than to somebody else",
    "doubtful_label": "perhaps the person of a larger label, with too few photos to tell",
    "benchmark_person": "the person, or the photo, is in the benchmark",
    "same_photo": "another photo of the person is nearly equal",
}
"""Why a labelled face is dropped."""


@dataclass(frozen=True, slots=True)
class CleanLabels:
    """What is left of the labels, in the order in which the faces were given."""

    label: list[str]
    """The label of a kept face; where labels were merged, that of most faces. Else empty."""
    score: Float32[np.ndarray, " faces"]
    """1 - own / rival, see ``clusters.silhouettes``; 0 for a dropped face."""
    reason: list[str]
    """Empty, or one of ``CAST_REASONS``."""
    steps: list[Step]


def clean_labels(
    ids: Sequence[str],
    vectors: Float[np.ndarray, "faces dim"],
    labels: Sequence[str],
    points: GroupingPoints,
    *,
    benchmark: Float[np.ndarray, "known dim"] | None = None,
    min_photos: int = 2,
    min_score: float = 0.05,
    k: int = 32,
    spread: Spread = HERE,
) -> CleanLabels:
    """Drop faces that are not who their label says, and merge labels that are one person.

    1. *Within labels*: the faces of a label are grouped; the largest group is taken for the person.
    2. *Between labels*: labels whose kept faces are one person to ``agglomerate`` are merged; where
       two would be, had they more photos, the smaller is dropped.
    3. *Centres*: a face is kept if it is near the kept faces of its label, and nearer than to those
       of any other; repeated until nothing changes. Faces come back this way, too. Then 2 again,
       until no labels merge.
    4. Faces that are hardly nearer to their own label than to another are dropped; then whoever is
       in the benchmark; then all but one of nearly equal photos of a person, the one kept being
       nearest to all of that person's.

    The answer depends on the set of faces alone, not on the order in which they are given.

    Args:
        ids: A different text per face.
        vectors: Identity vectors as the embedder gives them.
        labels: Any text per face; empty where the source names nobody.
        points: At which distances, see ``thresholds.grouping_points``.
        benchmark: Vectors by the same embedder, of people who must not be in the corpus.
        min_photos: A label of which fewer faces agree is dropped.
        min_score: Faces with a lower score are dropped as doubtful, 0 to 1.
        k: Neighbours among which other people are looked for.
        spread: Who looks for neighbours.

    Raises:
        BadInput: Two faces have one id, or there is not one id and one label per vector.

    References:
        Zhu et al., "WebFace260M", arXiv:2103.04098, section 3.
    """
    if len(labels) != len(ids):
        raise BadInput(f"{len(labels)} labels were given with {len(ids)} ids. Give one per face.")
    order = by_id(ids, len(vectors))
    prepared, good = prepare(vectors[order], points.metric)
    rows = np.flatnonzero(good)
    names = sorted({label for label in labels if label})
    number = {name: at for at, name in enumerate(names)} | {"": -1}
    mine = np.array([number[labels[row]] for row in order[rows]], np.int64)
    graph, limits = knn_graph(prepared[rows], k, spread), Limits.of(points)
    state = State.begin(prepared[rows], graph, limits, names, mine)
    keep_largest_groups(state)
    state.drop("lone photos", small(state, min_photos), "unsupported_label")
    merging = True
    while merging:
        # Before faces are judged: a label full of somebody else's photos were a rival to them.
        merging = merge_labels(state)
        settle(state, min_photos)
    score = scores(state)
    state.drop("doubtful faces", score < min_score, "doubtful_face")
    state.drop("small labels", small(state, min_photos), "unsupported_label")
    if benchmark is not None:
        known, usable = prepare(benchmark, points.metric)
        state.drop("benchmark", overlap(state, known[usable]), "benchmark_person")
    state.drop("same photos", repeated(state), "same_photo")

    label, reason = [""] * len(ids), ["bad_embedding"] * len(ids)
    final = np.zeros(len(ids), np.float32)
    for row, name, why, value in zip(order[rows], state.label, state.reason, score, strict=True):
        reason[row] = why
        if not why:
            label[row], final[row] = names[name], value
    return CleanLabels(label, final, reason, state.steps)
