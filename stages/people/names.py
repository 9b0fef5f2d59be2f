"""Names for identities, from captions: who is named again and again when a face is there.

A name says who somebody is, so this is personal data, and nothing here runs unless it is asked for.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int64

from infra.errors import BadInput
from stages.words import terms

_ROUNDS = 30
_NOBODY = 0.05
"""Weight of the answer that a face is none of those the caption names, or a name of no face."""
_CAPITAL = r"[^\W\d_a-z][\w-]*(?:['\u2019](?!s\b)[\w-]+)?"
_PARTICLES = r"(?:(?:al|bin|da|de|del|den|der|di|dos|la|van|von)\s+)*"
_FULL_NAME = re.compile(rf"\b{_CAPITAL}(?:\s+{_PARTICLES}{_CAPITAL})+")


@dataclass(frozen=True, slots=True)
class Named:
    """The name of an identity, and what speaks for it."""

    name: str
    photos: float
    """Photos whose caption has the name for this face, counted by how surely it does."""
    share: float
    """The same as a share of the photos of the identity whose caption names anybody."""


def names_in(captions: Sequence[str]) -> list[list[str]]:
    """Find full names in captions: two or more capitalised words, the first a known given name."""
    known = _given_names()
    found = [
        [" ".join(match.split()) for match in _FULL_NAME.findall(caption)] for caption in captions
    ]
    return [
        list(dict.fromkeys(name for name in names if name.split()[0].casefold() in known))
        for names in found
    ]


@lru_cache(maxsize=1)
def _given_names() -> frozenset[str]:
    """Return the given names of the list that captions are sieved by."""
    return frozenset(name.casefold() for name in terms("names"))


def name_identities(
    identities: Sequence[Sequence[str]],
    names: Sequence[Sequence[str]],
    *,
    min_photos: int = 2,
    min_share: float = 0.5,
) -> dict[str, Named]:
    """Give identities the names that recur with them.

    A photo of two faces and two names does not say who is who; several photos of one of them do. So
    every photo shares its names out among its faces, each name to one face and each face to one
    name, in proportion to how well the pair explains all photos of that face and of that name;
    repeated, this settles on the pairs that recur. What stays ambiguous (two people only ever seen
    and named together) gets no name.

    Args:
        identities: Per photo the identities of its faces; empty ones are passed over.
        names: Per photo the names in its caption, spelled as they shall be returned.
        min_photos: An identity is named when so many photos speak for the name.
        min_share: And when they are more than this share of its photos with names, 0 to 1.

    Returns:
        The named identities alone.

    Raises:
        BadInput: There is not one list of names per photo.

    References:
        Berg et al., "Names and faces in the news", CVPR 2004; the task is that of Rajendran et
        al., "SECLA", arXiv:2210.13352.
    """
    if len(identities) != len(names):
        words = f"{len(names)} lists of names were given for {len(identities)} photos."
        raise BadInput(f"{words} Give one per photo, empty where the caption names nobody.")
    triples = sorted(
        {
            (photo, face, name)
            for photo, (faces, called) in enumerate(zip(identities, names, strict=True))
            for face in faces
            for name in called
            if face and name
        }
    )
    if not triples:
        return {}
    photo, face, name, texts = _numbered(triples)
    weight = _recurring(photo, face, name)
    pair, at = np.unique(face * len(texts) + name, return_inverse=True)
    support = np.bincount(at, weight)
    photos = np.bincount(np.unique(np.column_stack([face, photo]), axis=0)[:, 0])
    named: dict[str, Named] = {}
    for key, photos_for in zip(pair.tolist(), support.tolist(), strict=True):
        who, called = divmod(key, len(texts))
        share = photos_for / float(photos[who])
        if round(photos_for) >= min_photos and share > min_share + 1e-6:
            named[texts[who]] = Named(texts[called], photos_for, share)
    return named


_Numbers = Int64[np.ndarray, " links"]


def _numbered(
    triples: list[tuple[int, str, str]],
) -> tuple[_Numbers, _Numbers, _Numbers, list[str]]:
    """Return photos, faces and names as numbers, the latter two as places in a list of texts."""
    texts = sorted({text for _, face, name in triples for text in (face, name)})
    at = {text: place for place, text in enumerate(texts)}
    rows = np.array([(photo, at[face], at[name]) for photo, face, name in triples], np.int64)
    return rows[:, 0], rows[:, 1], rows[:, 2], texts


def _recurring(photo: _Numbers, face: _Numbers, name: _Numbers) -> Float64[np.ndarray, " links"]:
    """Weigh every link of a face and a name in a photo, 0 to 1, by how often the two recur."""
    size = int(max(face.max(), name.max())) + 1
    _, faces_here = np.unique(photo * size + face, return_inverse=True)
    _, names_here = np.unique(photo * size + name, return_inverse=True)
    _, pair = np.unique(face * size + name, return_inverse=True)
    of_face = np.bincount(face[np.unique(faces_here, return_index=True)[1]], minlength=size)
    of_name = np.bincount(name[np.unique(names_here, return_index=True)[1]], minlength=size)
    weight = 1.0 / np.maximum(
        np.bincount(faces_here)[faces_here], np.bincount(names_here)[names_here]
    )
    for _ in range(_ROUNDS):
        support = np.bincount(pair, weight)[pair]
        weight = support / of_face[face] * support / of_name[name]
        for here in (faces_here, names_here, faces_here, names_here):
            weight = weight / (np.bincount(here, weight)[here] + _NOBODY)
    return np.asarray(weight)
