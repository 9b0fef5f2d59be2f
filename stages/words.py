"""Find the word in a caption that says a person is in the picture.

The lists are data: ``stages/human_terms/<list>.txt``, one term per line, ``#`` for comments. They
are made for English captions; names are international, in Latin letters. A term written in lower
case is found in any case. A term written with a capital is found only where the caption has one:
``Swede`` is a person and ``swede`` a vegetable, and so is every given name.

This is a sieve before anything is fetched, so it leans towards yes: a wrong yes costs one download,
a wrong no loses a picture.
"""

import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

from infra.errors import BadValue, nearest

TERM_LISTS = ("people", "nationalities", "ethnicities", "professions", "names")
"""The lists there are, by the names of their files."""

_WORD = re.compile(r"[^\W\d_]+")  # letters only, so that "bride's" gives "bride" and "s"


class _Phrase(NamedTuple):
    """A term, waiting under its first word in lower case."""

    tail: tuple[str, ...]
    capital: bool
    term: str


def human_terms(captions: Sequence[str], lists: Collection[str]) -> list[str]:
    """Return for each caption the first term that denotes a person, or ``""``.

    Whole words only: "mango" holds no man. Accents, possessives, hyphens and regular plurals do
    not matter. Where several terms begin at one word the longest wins: "police officer".

    Args:
        captions: Texts of any length, in any case.
        lists: Which of ``TERM_LISTS`` to use.

    Returns:
        The term as its list spells it, one per caption.

    Raises:
        BadValue: A list has an unknown name.
    """
    phrases = _phrases(frozenset(lists))
    return [_first_term(caption, phrases) for caption in captions]


def terms(name: str) -> list[str]:
    """Return the terms of one list, as its file spells them."""
    text = files("stages").joinpath("human_terms", f"{name}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _first_term(caption: str, phrases: dict[str, list[_Phrase]]) -> str:
    """Walk the words of ``caption`` until a phrase begins at one of them."""
    words = _words(caption)
    for at, word in enumerate(words, start=1):
        for tail, capital, term in phrases.get(word.lower(), ()):
            if capital and not word[0].isupper():
                continue
            if not tail or tuple(w.lower() for w in words[at : at + len(tail)]) == tail:
                return term
    return ""


def _words(text: str) -> list[str]:
    """Split ``text`` into its words, without accents."""
    if not text.isascii():
        letters = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in letters if not unicodedata.combining(c))
    return _WORD.findall(text)


@lru_cache(maxsize=8)
def _phrases(lists: frozenset[str]) -> dict[str, list[_Phrase]]:
    """Index the terms of ``lists`` by first word, the longest phrase first."""
    for name in sorted(lists - set(TERM_LISTS)):
        raise BadValue("human_terms", name, nearest(name, TERM_LISTS))
    listed = [term for name in TERM_LISTS if name in lists for term in terms(name)]
    spellings = {tuple(_words(term.lower())): term for term in reversed(listed)}
    for term in listed:
        *words, last = _words(term.lower())
        for plural in _plurals(last):
            spellings.setdefault((*words, plural), term)
    index: dict[str, list[_Phrase]] = {}
    for (head, *tail), term in sorted(spellings.items(), key=lambda item: -len(item[0])):
        index.setdefault(head, []).append(_Phrase(tuple(tail), term[0].isupper(), term))
    return index


def _plurals(word: str) -> Iterator[str]:
    """Spell the regular plurals; one that does not exist matches nothing and does no harm."""
    yield f"{word}s"
    if word.endswith(("s", "x", "z", "ch", "sh")):
        yield f"{word}es"
    if word.endswith("y"):
        yield f"{word[:-1]}ies"
    if word.endswith("man"):
        yield f"{word[:-3]}men"
