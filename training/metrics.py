"""What validation and evaluation both say of generated faces.

Distances are small for one person and large for two. The mean of nothing is nan.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Float32, Shaped
from scipy import stats

from infra.errors import BadValue
from stages.models.backend import load_detector, load_embedder
from stages.models.faces import Embedder, distance
from stages.types import RGB

SMALLEST_PX = 150
"""Shorter sides are enlarged to this before a face is looked for."""
_DETECT_PX = {"dlib": 300, "insightface": 640}
_MIN_SCORE = {"dlib": 0.0, "insightface": 0.5}
_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class IdentityScores:
    """How well generated pictures keep the people they were asked for."""

    auc: float
    """See ``auc``: 1 where everybody is told apart, 0.5 by chance."""
    own_distance: float
    """Mean distance of a face to its own reference."""
    other_distance: float
    """Mean distance of a face to the references of other people."""
    same_person_share: float
    """Share of all pictures that the encoder's author would call the person asked for."""
    face_share: float
    """Share of all pictures in which the detector sees a face."""
    pictures: int
    aligned: bool
    """Pictures were taken for aligned crops of faces and embedded whole."""


@dataclass(frozen=True)
class EmbeddedPictures:
    """Who is seen in each picture."""

    vectors: Float32[np.ndarray, "pictures dim"]
    """nan where no face could be embedded."""
    found: Bool[np.ndarray, " pictures"]
    """The detector sees a face."""


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


def face_sim(
    similarities: Float[np.ndarray, " pictures"],
    found: Bool[np.ndarray, " pictures"],
    *,
    published: bool = False,
) -> tuple[float, float]:
    """Return the mean and the lowest tenth (10th percentile) of cosine similarities.

    A similarity below 0 counts as 0, as in the papers, and so does a picture without a face.

    Args:
        similarities: 1 - cosine distance; anything where no face was found. Only for encoders
            that are compared by cosine: dlib's vectors are nearly parallel for all people.
        found: Whether there is a face.
        published: Leave pictures without a face out, as ConsisID (arXiv:2411.17440) does: a model
            then gains by not painting a face. For comparison with published numbers only.
    """
    counted = np.where(found, np.maximum(similarities, 0), 0)
    if published:
        counted = counted[found]
    if counted.size == 0:
        return float("nan"), float("nan")
    return float(counted.mean()), float(np.percentile(counted, 10))


def paired_bootstrap(
    a: Float[np.ndarray, " pairs"], b: Float[np.ndarray, " pairs"], seed: int, n: int = 2000
) -> tuple[float, float, float]:
    """Return the mean of a - b and its 95 % interval: low, high.

    Pairs are drawn again, with replacement, ``n`` times: what both models find hard stays in both.

    Raises:
        BadValue: There is no pair.

    References:
        Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    if a.size == 0:
        raise BadValue("pairs", 0, "give at least one pair of scores.")
    differences, rng = a - b, np.random.default_rng(seed)
    means = [rng.choice(differences, differences.size).mean() for _ in range(n)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(differences.mean()), float(low), float(high)


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


def leakage(
    generated: Float[np.ndarray, "n dim"],
    training: Float[np.ndarray, "m dim"],
    metric: Literal["l2", "cosine"] = "l2",
) -> npt.NDArray[np.float64]:
    """Return each generated face's distance to the nearest training face.

    Below the encoder's threshold, for a person who was not asked for, the model gives away whom it
    was trained on. Distances are computed in chunks, so that millions of training vectors fit.
    """
    nearest = np.full(len(generated), np.inf)
    for start in range(0, len(training), _CHUNK):
        chunk = training[start : start + _CHUNK]
        nearest = np.minimum(nearest, pairwise(generated, chunk, metric).min(axis=1))
    return nearest


def diversity(
    vectors_by_person: Mapping[str, Float[np.ndarray, "_ dim"]],
    metric: Literal["l2", "cosine"] = "l2",
) -> float:
    """Return the mean distance between two pictures of one person, every person weighing the same.

    People with fewer than two pictures say nothing and are left out.
    """
    means = [
        pairwise(vectors, vectors, metric)[np.triu_indices(len(vectors), k=1)].mean()
        for vectors in vectors_by_person.values()
        if len(vectors) > 1
    ]
    return float(np.mean(means)) if means else float("nan")


def embed_pictures(
    pictures: list[RGB],
    backend: str,
    *,
    pack: str = "",
    device: str = "cpu",
    aligned: bool = False,
) -> EmbeddedPictures:
    """Find the largest face of every picture and embed all of them in one batch.

    Args:
        pictures: Generated ones, of any size. Small ones are enlarged to a side of 150 px first.
        backend: ``dlib`` or ``insightface``.
        pack: The model pack of ``insightface``.
        device: ``cpu`` or ``cuda``.
        aligned: Every picture is already the crop of one face that the encoder wants, as from
            ``Embedder.align``: resize it and embed it whole, face or no face. Cropping it again
            would lose what little a picture of 64 px has. ``found`` is still the detector's word.

    Raises:
        BadValue: There is no such backend, or a setting cannot work.
    """
    embedder = load_embedder(backend, pack, device)
    detect_px, min_score = _DETECT_PX.get(backend, 640), _MIN_SCORE.get(backend, 0.0)
    detector = load_detector(backend, pack, detect_px, min_score, device)
    enlarged = [_enlarged(picture) for picture in pictures]
    faces = detector.detect(enlarged)
    found = np.array([len(of_one.scores) > 0 for of_one in faces], dtype=bool)
    if aligned:
        chips = [_resized(picture, embedder.chip_px, embedder.chip_px) for picture in pictures]
        return EmbeddedPictures(_embed(embedder, chips), found)
    chips = [
        embedder.align(picture, of_one.landmarks_px[:1])[0]
        for picture, of_one in zip(enlarged, faces, strict=True)
        if len(of_one.scores)
    ]
    seen = _embed(embedder, chips)
    vectors = np.full((len(pictures), seen.shape[1]), np.nan, dtype=np.float32)
    vectors[found] = seen
    return EmbeddedPictures(vectors, found)


def identity_scores(
    generated_pictures: list[RGB],
    references: Float32[np.ndarray, "pictures dim"],
    people: list[str],
    backend: str,
    *,
    pack: str = "",
    device: str = "cpu",
    aligned: bool = False,
) -> IdentityScores:
    """Compare every generated face with its own reference and with those of all other people.

    Args:
        generated_pictures: One per row of ``references``.
        references: The raw vector that each picture was generated from.
        people: Whose it is.
        backend: See ``embed_pictures``, like what follows.
        pack: See there.
        device: See there.
        aligned: See there.

    Raises:
        BadValue: Pictures, references and people are not equally many, or as in
            ``embed_pictures``.
    """
    counts = len(generated_pictures), len(references), len(people)
    if len(set(counts)) > 1:
        raise BadValue(
            "pictures, references, people", counts, "give one reference and one name per picture."
        )
    embedder = load_embedder(backend, pack, device)
    embedded = embed_pictures(
        generated_pictures, backend, pack=pack, device=device, aligned=aligned
    )
    seen = ~np.isnan(embedded.vectors).any(axis=1)
    names = np.array(people, dtype=str)
    own = distance(embedded.vectors[seen], references[seen], embedder.metric)
    is_other = names[seen][:, None] != names
    others = pairwise(embedded.vectors[seen], references, embedder.metric)[is_other]
    return IdentityScores(
        auc=auc(own, others),
        own_distance=_mean(own),
        other_distance=_mean(others),
        same_person_share=float((own < embedder.same_person_below).sum() / max(counts[0], 1)),
        face_share=_mean(embedded.found),
        pictures=counts[0],
        aligned=aligned,
    )


def _mean(values: Shaped[np.ndarray, " n"]) -> float:
    return float(np.mean(values)) if values.size else float("nan")


def _enlarged(picture: RGB) -> RGB:
    height, width = picture.shape[:2]
    scale = SMALLEST_PX / min(height, width)
    return picture if scale <= 1 else _resized(picture, round(width * scale), round(height * scale))


def _resized(picture: RGB, width: int, height: int) -> RGB:
    if picture.shape[:2] == (height, width):
        return picture
    how = cv2.INTER_CUBIC if height > picture.shape[0] else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, (width, height), interpolation=how), dtype=np.uint8)


def _embed(embedder: Embedder, chips: list[RGB]) -> Float32[np.ndarray, "faces dim"]:
    """Embed chips in one batch, an empty one too."""
    side = embedder.chip_px
    return embedder.embed(np.array(chips, dtype=np.uint8).reshape(-1, side, side, 3))
