"""What is said of faces, in numbers, with how sure one can be of them.

Distances are small for one person and large for two; nan stands for what was not seen. Everything
is over people: who is drawn again by the bootstrap is a person with all that belongs to one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from scipy import stats

from infra.errors import BadValue

RESAMPLES = 1000
_BY_CHANCE = 9999


@dataclass(frozen=True)
class Score:
    """A number and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    n: int
    """How many people, or pictures where that is said, stand behind it."""


def mean_score(
    values: Float[np.ndarray, " people"],
    seed: int = 0,
    statistic: Callable[..., npt.ArrayLike] = np.mean,
) -> Score | None:
    """Return the mean over people, or another statistic, and its percentile interval.

    Args:
        values: One per person; nan where the person says nothing, and is left out.
        seed: Of the resampling.
        statistic: Takes an array and ``axis``, as ``numpy.mean`` does.

    Returns:
        None where nobody says anything.

    References:
        Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    values = values[~np.isnan(values)]
    if values.size == 0:
        return None
    again = np.random.default_rng(seed).integers(values.size, size=(RESAMPLES, values.size))
    low, high = np.percentile(np.asarray(statistic(values[again], axis=1)), [2.5, 97.5])
    value = float(np.asarray(statistic(values, axis=0)))
    return Score(value, float(low), float(high), values.size)


def lowest_tenth(values: Float[np.ndarray, "*n"], axis: int) -> npt.ArrayLike:
    """Return the 10th percentile: how those fare who are kept worst."""
    return np.asarray(np.percentile(values, 10, axis=axis))


def auc(own: Float[np.ndarray, "*n"], others: Float[np.ndarray, "*m"]) -> float:
    """Return the probability that a distance to one's own reference is below one to another's.

    Every own distance is compared with every other one, ties count half: the rank statistic of
    Mann and Whitney, which is the area under the ROC curve.

    References:
        Fawcett, "An introduction to ROC analysis", Pattern Recognition Letters 27(8), 2006.
    """
    if own.size == 0 or others.size == 0:
        return float("nan")
    ranked = np.sort(others, axis=None)
    not_below = np.searchsorted(ranked, own.ravel(), side="left")
    not_above = np.searchsorted(ranked, own.ravel(), side="right")
    return float(1 - (not_below + not_above).mean() / (2 * ranked.size))


def auc_score(
    between: Float[np.ndarray, "people people"], seed: int = 0
) -> tuple[Score | None, Float[np.ndarray, " people"]]:
    """Return ``auc`` of a table of distances, its interval over people, and each one's part of it.

    Args:
        between: Picture of person i to the reference of person j; the diagonal is one's own. A row
            of nan is a picture without a face: it is nearer to nobody, hence wins no comparison,
            and says nothing of the others' distances.
        seed: Of the resampling.

    Returns:
        The score, None below two people with faces; and per person the share of the others'
        distances that one's own is below, whose mean is the AUC.
    """
    people = len(between)
    seen = ~np.isnan(between).any(axis=1)
    rows, columns = np.nonzero(~np.eye(people, dtype=bool) & seen[:, None])
    if rows.size == 0:
        return None, np.full(people, np.nan)
    order = np.argsort(between[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    ranked, own = between[rows, columns], np.where(seen, np.diag(between), np.inf)
    left, right = np.searchsorted(ranked, own, "left"), np.searchsorted(ranked, own, "right")
    parts = 1 - (left + right) / (2 * rows.size)
    rng = np.random.default_rng(seed)
    values: list[float] = []
    while len(values) < RESAMPLES:
        times = np.bincount(rng.integers(people, size=people), minlength=people)
        up_to = np.concatenate([[0], np.cumsum(times[rows] * times[columns])])
        if up_to[-1] > 0:
            won = 1 - (up_to[left] + up_to[right]) / (2 * up_to[-1])
            values.append(float((times * won).sum() / people))
    low, high = np.percentile(values, [2.5, 97.5])
    return Score(float(parts.mean()), float(low), float(high), people), parts


def face_sim(
    similarities: Float[np.ndarray, " pictures"], *, published: bool = False
) -> Float[np.ndarray, " pictures"]:
    """Return FaceSim per picture: the cosine similarity to the reference, 0 where it is below.

    Args:
        similarities: nan where no face was found: that counts as 0.
        published: Leave pictures without a face out (nan), as ConsisID (arXiv:2411.17440) does: a
            model then gains by not painting a face. For comparison with published numbers only.
    """
    counted = np.maximum(similarities, 0)
    return np.asarray(counted if published else np.nan_to_num(counted, nan=0.0))


@dataclass(frozen=True)
class Difference:
    """How two runs differ on the same people."""

    mean: float
    """Mean of the first less the second."""
    low: float
    high: float
    p: float
    """Probability of so large a mean, either way, if which run is which were chance."""
    n: int


def paired(
    a: Float[np.ndarray, " people"], b: Float[np.ndarray, " people"], seed: int = 0
) -> Difference:
    """Compare two runs by pairs: what both find hard does not widen the interval.

    The interval is the bootstrap's, 95 %; p is of the test that turns the signs of differences.
    Who is nan in either is left out.

    Raises:
        BadValue: There is no pair.

    References:
        Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 and 15.
    """
    differences = (a - b)[~np.isnan(a - b)]
    found = mean_score(differences, seed)
    if found is None:
        raise BadValue("pairs", 0, "give at least one pair of scores.")
    rng = np.random.default_rng(seed)
    reached = 1  # the pairs as they are are one of the ways
    for _ in range(_BY_CHANCE):
        turned = differences @ rng.choice([-1.0, 1.0], differences.size)
        reached += abs(turned) >= abs(differences.sum()) - 1e-12
    p = reached / (_BY_CHANCE + 1)
    return Difference(found.value, found.low, found.high, float(p), found.n)


def wilcoxon_greater(a: Float[np.ndarray, " pairs"], b: Float[np.ndarray, " pairs"]) -> float:
    """Return the p-value of "a is not greater than b", over pairs.

    References:
        Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1(6), 1945.
    """
    if np.array_equal(a, b):
        return 1.0
    return float(stats.wilcoxon(a, b, alternative="greater").pvalue)


def pairwise(
    a: Float[np.ndarray, "n dim"],
    b: Float[np.ndarray, "m dim"],
    metric: Literal["l2", "cosine"] = "l2",
) -> npt.NDArray[np.float64]:
    """Return every distance between two sets of vectors, n x m, as ``distance`` measures it."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    if metric == "cosine":
        a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b))
        return np.asarray(1 - a @ b.T)
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squared, 0)))


def cosines(
    a: Float[np.ndarray, "n dim"], b: Float[np.ndarray, "n dim"]
) -> Float[np.ndarray, " n"]:
    """Return the cosine similarity of vectors, row by row."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(norms, 1e-12))


def nearest(
    faces: Float[np.ndarray, "n dim"],
    training: Iterable[Float[np.ndarray, "_ dim"]],
    metric: Literal["l2", "cosine"] = "l2",
) -> npt.NDArray[np.float64]:
    """Return each face's distance to the nearest training face.

    A drawn face that is nearer to somebody of the training than to the person asked for gives away
    whom the model was trained on. Training faces come in chunks, so that millions fit.
    """
    found = np.full(len(faces), np.inf)
    for chunk in training:
        found = np.fmin(found, pairwise(faces, chunk, metric).min(axis=1))
    return np.where(np.isnan(faces).any(axis=1), np.nan, found)


def diversity(
    vectors: Float[np.ndarray, "people seeds dim"], metric: Literal["l2", "cosine"] = "l2"
) -> Float[np.ndarray, " people"]:
    """Return, per person, the mean distance between pictures drawn with different seeds.

    Pictures without a face are left out; who has fewer than two others is nan.
    """
    means = np.full(len(vectors), np.nan)
    for person, each in enumerate(vectors):
        seen = each[~np.isnan(each).any(axis=1)]
        if len(seen) > 1:
            between = pairwise(seen, seen, metric)
            means[person] = between[np.triu_indices(len(seen), k=1)].mean()
    return means


def own_and_others(
    between: Float[np.ndarray, "people people"],
) -> tuple[Float[np.ndarray, " people"], Float[np.ndarray, " people"]]:
    """Return per person the distance to the own reference and the mean to the others'."""
    if len(between) < 2:
        return np.diag(between).copy(), np.full(len(between), np.nan)
    others = np.where(np.eye(len(between), dtype=bool), 0.0, between).sum(axis=1)
    return np.diag(between).copy(), others / (len(between) - 1)


def flattened(scores: Mapping[str, Score]) -> dict[str, dict[str, float]]:
    """Return scores as ``scores.json`` holds them."""
    return {
        name: {"value": s.value, "low": s.low, "high": s.high, "n": s.n}
        for name, s in scores.items()
    }
