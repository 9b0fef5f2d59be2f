"""Take names of people out of captions: a corpus shows faces, it must not tell whose they are."""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files

from stages.people.names import names_in
from stages.words import terms

SOMEBODY = "a person"
"""What stands where a name stood."""
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
_TITLE = (
    r"(?:(?:Mrs?|Ms|Miss|Dr|Prof|Sir|Dame|Lord|Lady|President|Senator|Queen|King|Prince|Princess|"
    r"Pope|Professor|Doctor|Governor|Mayor|Judge|Chancellor)\.?\s+)"
)
_TITLES = rf"(?:(?:[Aa]n?|[Tt]he)\s+)?{_TITLE}*"
_CAPITALISED = r"[A-Z\u00c0-\u00de][^\W\d_]+(?:[\s'\u2019-]+[A-Z\u00c0-\u00de][^\W\d_]*)*"
_TITLED = re.compile(rf"\b(?:(?:[Aa]n?|[Tt]he)\s+)?{_TITLE}+{_CAPITALISED}")
_CALLED = re.compile(rf",?\s+(?:named|called|known as|identified as)\s+{_CAPITALISED}")
_BEFORE = re.compile(r"(?:^|[.!?:]\s+|[\"\u201c(]\s*)$")
_LIST = re.compile(r"\ba person(?:(?:,\s+|,?\s+and\s+)a person\b)+", re.IGNORECASE)


def redact(text: str, known: Iterable[str] = ()) -> tuple[str, int]:
    """Write ``a person`` where ``text`` names somebody.

    Full names are found as ``names_in`` finds them, given names of the list also where they stand
    alone, and any name behind a title or behind "named". This errs towards taking too much out: a
    wrong hit costs a word, a wrong miss tells who somebody is. Names of scripts without capitals,
    surnames that stand alone, and names whose given name is not listed, are not found.

    Args:
        text: A caption in Latin letters.
        known: Names that come with the picture, such as its label: found in any case.

    Returns:
        The text, and how many names were taken out.
    """
    text = unicodedata.normalize("NFC", text)
    text, called = _CALLED.subn("", text)
    names = {" ".join(name.replace("_", " ").split()) for name in known}
    names |= set(names_in([text])[0])
    hits = 0
    for name in sorted(filter(None, names), key=lambda name: (-len(name), name)):
        words = r"[\s.]+".join(re.escape(word.rstrip(".")) for word in name.split())
        pattern = rf"\b{_TITLES}{words}\b\.?(?=['\u2019]|\W|$)" if " " in name else None
        # A label of one word may be any word: it counts where it is written as a name.
        pattern = pattern or rf"\b{_TITLES}{re.escape(name[:1].upper() + name[1:])}\b"
        flags = re.IGNORECASE if " " in name else 0
        text, found = re.subn(pattern, _stand_in, text, flags=flags)
        hits += found
    text, titled = _TITLED.subn(_stand_in, text)
    text, alone = _lone(text)
    hits += called + titled + alone
    if not hits:
        return text, 0
    text = _LIST.sub(lambda match: "People" if match[0][0] == "A" else "people", text)
    return re.sub(r"\s{2,}", " ", text).strip(), hits


def _stand_in(match: re.Match[str]) -> str:
    """Return the words for a name, with a capital where a sentence begins."""
    begins = _BEFORE.search(match.string[: match.start()]) is not None
    ending = "." if match[0].endswith(".") and match.end() == len(match.string) else ""
    return (SOMEBODY.capitalize() if begins else SOMEBODY) + ending


def _lone(text: str) -> tuple[str, int]:
    """Take out given names that stand alone."""
    hits = 0

    def look(match: re.Match[str]) -> str:
        nonlocal hits
        word = match[0]
        bare = re.sub(r"['\u2019]s$", "", word)
        if not word[0].isupper() or bare.casefold() not in _given() or bare.isupper():
            return word
        if bare.casefold() in _also_words():
            return word
        hits += 1
        return _stand_in(match) + word[len(bare) :]

    return _WORD.sub(look, text), hits


@lru_cache(maxsize=1)
def _given() -> frozenset[str]:
    """Return the given names of the list, in lower case."""
    return frozenset(name.casefold() for name in terms("names"))


@lru_cache(maxsize=1)
def _also_words() -> frozenset[str]:
    """Return the given names that are words too."""
    listed = files("stages").joinpath("captions", "names_and_words.txt").read_text(encoding="utf-8")
    return frozenset(line for line in listed.splitlines() if not line.startswith("#"))
