"""Are drawn people told apart, and is each one person? By the encoder, on the drawn pictures.

Shapes: N pictures, P real people, D identity.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64

from training.evaluation.metrics import Score, auc, mean_score
from training.synthetic import Space

_AT_ONCE, _REAL = 512, 1000


def separation(
    space: Space,
    vectors: Float[np.ndarray, "N D"],
    whose: Sequence[int],
    below: float,
) -> dict[str, Score]:
    """Score drawn people; each score is a mean over people with its interval.

    Args:
        space: Of the real people.
        vectors: Of the face in each picture; nan where none was seen.
        whose: The person on each picture, ascending.
        below: The similarity from which two vectors count as one person's.

    Returns:
        ``consistency``: similarity between pictures of one person; ``consistent_share``: pairs of
        them at or above the bound; ``impostor_similarity`` and ``impostor_share``: the same between
        a person's first picture and others' first ones; ``separable_share``: people whose first
        picture is below the bound to all others'; ``nearest_real``: similarity to the most similar
        real person; ``cloned_share``: people for whom that is at or above the bound; ``auc``: the
        probability that two pictures of one person are nearer than two of different people (without
        an interval). A score that nobody has is left out.
    """
    known = np.isfinite(vectors).all(axis=1)
    persons = np.asarray(whose)[known]
    units = space.compared(vectors[known])
    numbers, first = np.unique(persons, return_index=True)
    if not len(numbers):
        return {}
    own, shares, pairs = [], [], []
    ends = [*first[1:].tolist(), len(persons)]
    for begin, end in zip(first.tolist(), ends, strict=True):
        between = units[begin:end] @ units[begin:end].T
        mine = between[np.triu_indices(end - begin, k=1)]
        own.append(mine.mean() if len(mine) else np.nan)
        shares.append((mine >= below).mean() if len(mine) else np.nan)
        pairs.append(mine)
    each = {"consistency": np.array(own), "consistent_share": np.array(shares)}
    others = _others(units[first], below)
    each |= {name: column for name, column in others.items() if name != "all"}
    real = space.compared(space.people)
    some = np.linspace(0, len(real) - 1, min(len(real), _REAL)).astype(np.int64)
    each["nearest_real"] = _nearest(units[first], real)
    each["nearest_real_of_real"] = _nearest(real[some], real, itself=some)
    for name in ("", "_of_real"):
        near = each[f"nearest_real{name}"] >= below
        each[f"cloned_share{name}"] = near.astype(np.float64)
    scores = {name: mean_score(column.astype(np.float64)) for name, column in each.items()}
    told = {name: score for name, score in scores.items() if score is not None}
    genuine = np.concatenate(pairs)
    if len(genuine) and len(others["all"]):
        value = auc(-genuine, -others["all"])
        told["auc"] = Score(value, value, value, len(numbers))
    return told


def _others(units: Float[np.ndarray, "people D"], below: float) -> dict[str, np.ndarray]:
    """Compare everybody with everybody else, some at a time; ``all`` has at most a million."""
    people = len(units)
    mean, share, separable = (np.full(people, np.nan) for _ in range(3))
    sample: list[np.ndarray] = []
    if people < 2:
        return {"impostor_similarity": mean, "impostor_share": share,
                "separable_share": separable, "all": np.empty(0)}  # fmt: skip
    every = max(1, people * (people - 1) // 1_000_000)
    for start in range(0, people, _AT_ONCE):
        part = slice(start, min(start + _AT_ONCE, people))
        between = units[part] @ units.T
        rows = np.arange(part.stop - start)
        apart = np.ones(between.shape, dtype=bool)
        apart[rows, rows + start] = False
        values = between[apart].reshape(len(rows), people - 1)
        mean[part], share[part] = values.mean(1), (values >= below).mean(1)
        separable[part] = (values.max(1) < below).astype(np.float64)
        sample.append(values.ravel()[::every])
    return {"impostor_similarity": mean, "impostor_share": share,
            "separable_share": separable, "all": np.concatenate(sample)}  # fmt: skip


def _nearest(
    units: Float[np.ndarray, "people D"],
    real: Float[np.ndarray, "P D"],
    itself: Int64[np.ndarray, " people"] | None = None,
) -> Float[np.ndarray, " people"]:
    """Return the similarity to the most similar real person, or to the most similar other one."""
    found = np.empty(len(units))
    for start in range(0, len(units), _AT_ONCE):
        between = units[start : start + _AT_ONCE] @ real.T
        if itself is not None:
            between[np.arange(len(between)), itself[start : start + _AT_ONCE]] = -1.0
        found[start : start + _AT_ONCE] = between.max(axis=1)
    return found
