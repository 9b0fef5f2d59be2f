"""Names for identities, from captions: who is named again and again when a face is there.

A name says who somebody is, so this is personal data, and nothing here runs unless it is asked for.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int64

from infra.errors import BadInput
from stages.words import terms

_ROUNDS = 30
_NOBODY = 0.05
"""Weight of the answer that a face is none of those the caption names, or a name of no face."""
_LETTERS = re.compile(r"[^\W\d_]+")
_BREAK = re.compile(
    r"['\u2019][sS]\b"  # whose: the name is over
    r"|(?<!\b\w)\."  # any dot but an initial's
    r"|(?<!\w)['\u2019-]|['\u2019-](?!\w)"  # quotes and dashes, not O'Brien, not Mary-Kate
    r"|[^\w\s.'\u2019-]"
)
"""Where no name goes on."""
_NICKNAME = re.compile(
    r"\s(?:[\"\u201c][^\"\u201d]{1,30}[\"\u201d]|['\u2018][^'\u2019]{1,30}['\u2019]"
    r"|\([^)]{1,30}\))(?=\s)"
)
_PARTICLES = frozenset(
    ("al", "bin", "da", "de", "del", "den", "der", "di", "dos", "el", "ibn", "la", "van", "von")
)
_SMALL = frozenset(
    ("a", "an", "and", "as", "at", "by", "for", "from", "in", "is", "of", "on", "or", "the", "to",
     "with")
)  # fmt: skip
"""Words that are in no name, though headlines capitalise them."""
_LONGEST_LIST = 4
"""Capitalised words that are a list of names; more, and nothing else, are a headline."""


@dataclass(frozen=True, slots=True)
class Named:
    """The name of an identity, and what speaks for it."""

    name: str
    photos: float
    """Photos whose caption has the name for this face, counted by how surely it does."""
    share: float
    """The same as a share of the photos of the identity whose caption names anybody."""


def names_in(captions: Sequence[str]) -> list[list[str]]:
    """Find full names in captions: a known given name, and the capitalised words that follow it.

    A name of which the captions have several spellings (accents, capitals, a dot) has the commonest
    everywhere. Nicknames in quotes or brackets are left out: Dwayne "The Rock" Johnson is Dwayne
    Johnson. Where every word of a caption is capitalised, a name is the given name and the next
    word, since nothing says where it ends. Single names, names in scripts without capitals, and
    given names that ``stages/human_terms/names.txt`` has not are not found.

    Args:
        captions: Texts in Latin letters, as found on the web.

    Returns:
        Per caption its names, each once, in their order.
    """
    found = [list(_names(caption)) for caption in captions]
    spellings = Counter(name for names in found for name in names)
    best: dict[str, str] = {}
    for name in sorted(spellings, key=lambda name: (-spellings[name], name)):
        best.setdefault(_key(name), name)
    return [list(dict.fromkeys(best[_key(name)] for name in names)) for names in found]


def _names(caption: str) -> Iterator[str]:
    """Yield the names in a caption, as it spells them."""
    text = _NICKNAME.sub(" ", unicodedata.normalize("NFC", caption))
    words = [word for word in _LETTERS.findall(text) if word.casefold() not in _SMALL]
    headline = len(words) > _LONGEST_LIST and all(word[0].isupper() for word in words)
    known = _given_names()
    for run in _runs(text):
        given = (at for at, word in enumerate(run) if _key(word.partition("-")[0]) in known)
        name = run[next(given, len(run)) :]
        ends = [at for at, word in enumerate(name) if at and _ends_name(word)]
        if ends:
            yield " ".join(name[: (ends[0] if headline else ends[-1]) + 1])


def _runs(text: str) -> Iterator[list[str]]:
    """Yield stretches of capitalised words, with particles among them."""
    for part in _BREAK.split(text):
        run: list[str] = []
        for word in part.split():
            if word[0].isupper() and word.casefold() not in _SMALL:
                run.append(_calm(word))
            elif run and word in _PARTICLES:
                run.append(word)
            else:
                yield run
                run = []
        yield run


def _calm(word: str) -> str:
    """Write a word in capitals as names are written; leave initials and numerals as they are."""
    if len(word) > 1 and word.isupper() and not set(word) <= set("IVX"):
        return re.sub(r"[^\W\d_]+", lambda part: part[0].capitalize(), word)
    return word


def _ends_name(word: str) -> bool:
    """Say whether a word can end a name: it is capitalised, and no initial."""
    return word[0].isupper() and len(word.rstrip(".")) > 1


def _key(name: str) -> str:
    """Return what the spellings of one name have in common: no accents, capitals or dots."""
    letters = unicodedata.normalize("NFKD", name.casefold().replace("\u2019", "'"))
    return "".join(each for each in letters if not unicodedata.combining(each) and each != ".")


@lru_cache(maxsize=1)
def _given_names() -> frozenset[str]:
    """Return the given names of the list that captions are sieved by."""
    return frozenset(_key(name) for name in terms("names"))


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
    # Of several names the best supported comes last, and stays.
    for photos_for, key in sorted(zip(support.tolist(), pair.tolist(), strict=True)):
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
    # The rounds end with names, of which a face may still have two.
    for here in (faces_here, names_here):
        weight = weight / np.maximum(np.bincount(here, weight)[here], 1)
    return np.asarray(weight)
