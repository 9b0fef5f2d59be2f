"""Who every face of a corpus is: labels where they can be trusted, else the vectors alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Float32

from stages.models.faces import GroupingPoints
from stages.people.cast import clean_labels
from stages.people.cast_steps import Step
from stages.people.clusters import find_people, name_of
from stages.people.settings import PeopleSettings
from stages.spread import HERE, Spread


@dataclass(frozen=True, slots=True)
class Identified:
    """Who every face is, in the order in which the faces were given."""

    identity: list[str]
    """32 hex digits, or empty for a face of nobody."""
    score: Float32[np.ndarray, " faces"]
    """0 to 1, see ``clusters.silhouettes``; 0 for a face of nobody."""
    reason: list[str]
    """Empty, or one of ``clusters.REASONS`` or ``cast.CAST_REASONS``."""
    steps: list[Step] = field(default_factory=list)
    """What cleaning the labels did; empty where labels are not used."""


def limits_of(settings: PeopleSettings, points: GroupingPoints) -> GroupingPoints:
    """Return the embedder's distances, with those of the settings in their place."""
    given = {name: getattr(settings, name) for name in ("pair_below", "group_below")}
    return replace(points, **{name: value for name, value in given.items() if value})


def identify(
    ids: Sequence[str],
    vectors: Float[np.ndarray, "faces dim"],
    labels: Sequence[str],
    settings: PeopleSettings,
    points: GroupingPoints,
    benchmark: Float[np.ndarray, "known dim"] | None = None,
    spread: Spread = HERE,
) -> Identified:
    """Give every face its identity.

    With labels, the labelled faces are cleaned (``clean_labels``) and those that are kept have an
    identity named after their label. All other faces but the dropped are grouped together with
    them (``find_people``), and have the identity of the label that most kept faces of their group
    have, or else of the group. The answer does not depend on the order of the faces.

    Args:
        ids: A different text per face.
        vectors: As the embedder gives them.
        labels: A text per face; empty where nobody is named, as for all but the main face.
        settings: Whether labels count, and how many photos make a person.
        points: The embedder's distances, see ``thresholds.grouping_points``.
        benchmark: Vectors of people whom no labelled face may show.
        spread: Who looks for neighbours.

    Raises:
        BadInput: Two faces have one id.
        BadValue: The distances are not in their order.
    """
    points = limits_of(settings, points)
    people = find_people(ids, vectors, points, min_photos=settings.min_photos, spread=spread)
    if settings.labels == "ignore" or not any(labels):
        return Identified(people.identity, people.score, people.reason)
    at = [row for row, label in enumerate(labels) if label]
    clean = clean_labels(
        [ids[row] for row in at],
        vectors[at],
        [labels[row] for row in at],
        points,
        benchmark=benchmark,
        min_photos=settings.min_photos,
        spread=spread,
    )
    identity, score, reason = list(people.identity), people.score.copy(), list(people.reason)
    whose = _labels_of_groups([people.identity[row] for row in at], clean.label)
    for row, group in enumerate(people.identity):
        if group in whose and not labels[row]:
            identity[row] = label_identity(whose[group])
    for row, label, sure, why in zip(at, clean.label, clean.score, clean.reason, strict=True):
        identity[row], score[row], reason[row] = label_identity(label), sure, why
    return Identified(identity, score, reason, clean.steps)


def label_identity(label: str) -> str:
    """Name the identity of a label; nobody's is empty."""
    return name_of(f"label {label}") if label else ""


def _labels_of_groups(groups: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """Return the commonest label of every group; of equally common ones the first by name."""
    votes: dict[str, Counter[str]] = {}
    for group, label in zip(groups, labels, strict=True):
        if group and label:
            votes.setdefault(group, Counter())[label] += 1
    return {
        group: min(counts, key=lambda label: (-counts[label], label))
        for group, counts in votes.items()
    }
