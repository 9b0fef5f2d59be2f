"""Vectors of made-up people, for the tests beside this file and the benchmark of people."""

import numpy as np

from stages.models.faces import GroupingPoints

POINTS = GroupingPoints(
    metric="cosine",
    pair_below=0.1,
    group_below=0.14,
    labelled_below=0.2,
    duplicate_below=1e-5,
)
"""Far above the distances within a person of ``crowd``, and far below those between two."""


def crowd(people=20, photos=6, noise=0.02, dim=64, seed=0):
    """Return ids, vectors and the person of each, in no order."""
    rng = np.random.default_rng(seed)
    who = rng.normal(size=(people, dim))
    who /= np.linalg.norm(who, axis=1, keepdims=True)
    labels = rng.permutation(np.repeat(np.arange(people), photos))
    vectors = who[labels] + noise * rng.normal(size=(len(labels), dim))
    return [f"{i:05d}" for i in range(len(labels))], vectors.astype(np.float32), labels


def same_groups(names, labels):
    """Say whether two groupings put the same pairs together."""
    names, labels = np.asarray(names), np.asarray(labels)
    return ((names[:, None] == names) == (labels[:, None] == labels)).all()
