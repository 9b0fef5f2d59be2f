"""People who do not exist, as identity vectors: far from one another and from everybody real.

Shapes: P people, N photographs, D identity, A attributes.

Similarity is the cosine of vectors less their centre. The centre is the corpus' mean where the
encoder is compared by Euclidean distance, for such vectors all lie around one direction (dlib: 0.84
between two people, 0.01 without the mean), and the origin otherwise.

References:
    Wu et al., "Vec2Face: Scaling Face Dataset Generation with Loosely Constrained Vectors",
    arXiv:2409.02979: vectors drawn from the principal components of real ones, kept if their
    similarity to all earlier ones is below a threshold, varied by small random changes.

Here nobody is kept who is near a real person either. Variations turn a vector by a bounded angle
and keep its length, instead of adding noise whose effect depends on the length; and they go where
photographs of one person differ. Attributes are not optimised through the generator (AttrOP): the
vector moves the way that real vectors do when the attribute changes, within the same bound.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import acos, degrees
from typing import Literal

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from infra.errors import BadValue

BELOW = {"cosine": 0.3, "l2": 0.5}
"""Similarity under which two people are two, by metric. Vec2Face's for ArcFace; dlib's vectors have
some 31 effective dimensions, in which 0.3 leaves no room beside 2,000 real people: on LFW the most
similar other person is at 0.57 in the median, and 0.5 takes half of all draws."""
_AT_ONCE = 1024
_MOST_DRAWS = 50 * _AT_ONCE
"""Of one person, before there is said to be no room."""
_NOTHING = 1e-9
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Space:
    """Where the vectors of a corpus lie, and how those of one person differ."""

    centre: Float[np.ndarray, " D"]
    people: Float[np.ndarray, "P D"]
    """The mean vector of each real person."""
    means: dict[str, Float[np.ndarray, " D"]]
    """The mean of each group of people; of all of them under the empty name."""
    axes: Float[np.ndarray, "K D"]
    """Principal components of people around their group's mean, scaled by their deviations."""
    within: Float[np.ndarray, "L D"]
    """The same of photographs around their person's mean; ``axes`` where nobody has two."""
    attributes: tuple[str, ...]
    attribute_means: Float[np.ndarray, " A"]
    slopes: Float[np.ndarray, "A D"]
    """By how much a person's vector changes with one unit of each attribute."""
    explained: dict[str, float]
    """Share of the variance within people that each attribute alone explains."""

    def compared(self, vectors: Float[np.ndarray, "*n D"]) -> Doubles:
        """Return vectors whose products are similarities."""
        away = np.asarray(vectors, dtype=np.float64) - self.centre
        norms = np.linalg.norm(away, axis=-1, keepdims=True)
        return np.asarray(away / np.maximum(norms, _NOTHING))


def describe(
    vectors: Float[np.ndarray, "N D"],
    whose: Sequence[str],
    metric: Literal["l2", "cosine"],
    *,
    groups: Mapping[str, str] | None = None,
    measured: Mapping[str, Float[np.ndarray, " N"]] | None = None,
) -> Space:
    """Describe the vectors of real people.

    Args:
        vectors: Raw, of the main face of each photograph.
        whose: The person on each.
        metric: How their encoder's vectors are compared.
        groups: The group of some people, such as a demographic label; others belong to none.
        measured: Attributes of each photograph, such as its yaw.

    Raises:
        BadValue: There are fewer than two people, or a group has.
    """
    vectors = vectors.astype(np.float64)
    names, at = np.unique(np.asarray(whose), return_inverse=True)
    if len(names) < 2:
        raise BadValue("corpus", f"{len(names)} people", "new people are drawn from two or more.")
    counts = np.bincount(at)
    people = np.stack([np.bincount(at, column) for column in vectors.T], axis=1) / counts[:, None]
    centre = vectors.mean(0) if metric == "l2" else np.zeros(vectors.shape[1])
    group = np.array([(groups or {}).get(name, "") for name in names])
    means = {"": people.mean(0)}
    around = people - means[""]
    for name in sorted(set(group.tolist()) - {""}):
        if (group == name).sum() < 2:
            raise BadValue("plan", name, "the corpus has fewer than two people of it.")
        means[name] = people[group == name].mean(0)
        around[group == name] = people[group == name] - means[name]
    several = counts[at] > 1
    residuals = (vectors - people[at])[several]
    axes = _components(around)
    values = {name: _filled(held) for name, held in sorted((measured or {}).items())}
    moved = {name: held - (np.bincount(at, held) / counts)[at] for name, held in values.items()}
    inside = [held[several] for held in moved.values()]
    return Space(
        centre=centre,
        people=people,
        means=means,
        axes=axes,
        within=_components(residuals) if len(residuals) else axes,
        attributes=tuple(values),
        attribute_means=np.array([held.mean() for held in values.values()], dtype=np.float64),
        slopes=_slopes(inside, residuals),
        explained={name: _explained(held, residuals)
                   for name, held in zip(values, inside, strict=True)},
    )  # fmt: skip


def new_people(
    space: Space, groups: Sequence[str], below: float, seed: int
) -> Float[np.ndarray, "new D"]:
    """Draw people whose similarity to all earlier ones and to everybody real is below a bound.

    Each is drawn from the Gaussian of the real people's mean vectors, around the mean of its group,
    until one is far enough from all. So the first of a longer list are those of a shorter one.

    Args:
        space: Of the real people.
        groups: The group of each; "": of none.
        below: The bound.
        seed: What they follow from.

    Raises:
        BadValue: There is no room for so many.
    """
    rng = np.random.default_rng([seed, 0])
    real = space.compared(space.people)
    found = np.empty((len(groups), len(space.centre)))
    taken = np.empty_like(found)
    waiting: dict[str, deque[Doubles]] = {name: deque() for name in space.means}
    for number, group in enumerate(groups):
        drawn = 0
        while True:
            queue = waiting[group]
            if not queue:
                if drawn >= _MOST_DRAWS:
                    raise BadValue(
                        "below",
                        below,
                        f"after {number:,} people, {drawn:,} draws gave nobody who is that unlike "
                        f"them and {len(real):,} real people; raise it, or ask for fewer.",
                    )
                some = (
                    space.means[group]
                    + rng.standard_normal((_AT_ONCE, len(space.axes))) @ space.axes
                )
                drawn += _AT_ONCE
                far = (space.compared(some) @ real.T).max(axis=1) < below
                queue.extend(some[far])
                continue
            one = queue.popleft()
            unit = space.compared(one)
            if not number or float((taken[:number] @ unit).max()) < below:
                found[number], taken[number] = one, unit
                break
    return found.astype(np.float32)


def most_variation_deg(below: float) -> float:
    """Return the angle up to which variations leave people apart.

    Turned by at most this, two vectors of one person are at least as similar as any two of
    different people whose own similarity is below ``below``: a quarter of the angle between these.
    """
    return degrees(acos(below)) / 4


def variation(
    space: Space,
    person: Float[np.ndarray, " D"],
    wanted: Mapping[str, float],
    most_deg: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, " D"]:
    """Return another vector of a person: turned by at most an angle, as long as before.

    Args:
        space: Of the real people.
        person: The vector.
        wanted: Values that attributes are to have; others are left to chance.
        most_deg: The angle around the space's centre. Values that are further away are approached.
        rng: Draws the direction, as photographs of one person differ, and the angle, uniformly.
    """
    away = person.astype(np.float64) - space.centre
    length = float(np.linalg.norm(away))
    unit = away / max(length, _NOTHING)
    asked = np.array([
        wanted[name] - mean if name in wanted else 0.0
        for name, mean in zip(space.attributes, space.attribute_means, strict=True)
    ])  # fmt: skip
    offset = _sideways(asked @ space.slopes if len(asked) else np.zeros_like(unit), unit)
    chance = _sideways(rng.standard_normal(len(space.within)) @ space.within, unit)
    angle = np.radians(most_deg) * rng.random()
    offset += chance / max(float(np.linalg.norm(chance)), _NOTHING) * length * np.tan(angle)
    far = float(np.linalg.norm(offset))
    angle = min(np.arctan2(far, length), np.radians(most_deg))
    turned = np.cos(angle) * unit + np.sin(angle) * offset / max(far, _NOTHING)
    return np.asarray(space.centre + length * turned, dtype=np.float32)


def _sideways(offset: Doubles, unit: Doubles) -> Doubles:
    """Take away what lies along a vector."""
    return np.asarray(offset - (offset @ unit) * unit)


def _components(around: Doubles) -> Doubles:
    """Return principal components, each as long as its deviation; those of no length are left."""
    _, lengths, axes = np.linalg.svd(around - around.mean(0), full_matrices=False)
    deviations = lengths / np.sqrt(max(len(around) - 1, 1))
    kept = deviations > 1e-6 * max(float(deviations.max()), _NOTHING)
    return np.asarray(deviations[kept, None] * axes[kept])


def _filled(held: Float[np.ndarray, " N"]) -> Doubles:
    """Put the mean where nothing was measured, which then says nothing."""
    mean = float(np.nanmean(held)) if np.isfinite(held).any() else 0.0
    return np.where(np.isfinite(held), held, mean).astype(np.float64)


def _slopes(moved: Sequence[Doubles], residuals: Doubles) -> Doubles:
    """Regress vectors on attributes, all at once, so that none takes another one's share."""
    if not moved or not len(residuals):
        return np.zeros((len(moved), residuals.shape[1]))
    slopes, *_ = np.linalg.lstsq(np.stack(moved, axis=1), residuals, rcond=None)
    return np.asarray(slopes)


def _explained(moved: Doubles, residuals: Doubles) -> float:
    total, spread = float((residuals**2).sum()), float(moved @ moved)
    if not total or not spread:
        return 0.0
    along = moved @ residuals / spread
    return float((along @ along) * spread / total)
