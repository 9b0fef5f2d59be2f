"""Say which captions are no good, and why: each reason has its name in ``REJECTIONS``."""

import re
from collections import Counter

from stages.captions.settings import CaptionSettings
from stages.words import human_terms

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_REFUSES = re.compile(
    r"\b(?:i(?:['\u2019]m| am) (?:sorry|unable|not able|afraid)"
    r"|i (?:can(?:no|['\u2019])t|can not|won['\u2019]t|will not|do not|don['\u2019]t|must) "
    r"(?:assist|help|describe|identify|provide|see|comply|fulfil|view|analy[sz]e|decline|comment)"
    r"|i(?:['\u2019]d| would) (?:rather|prefer) not"
    r"|as an? (?:ai|artificial|language|large language|assistant)\b"
    r"|(?:no|without an?) (?:image|picture|photo|photograph)"
    r" (?:was|is|has been|were|provided|attached|given)"
    r"|(?:unable|not able) to (?:assist|help|describe|identify|view|see|process|analy[sz]e)"
    r"|against (?:my|the|our) (?:guidelines|policy|policies))",
    re.IGNORECASE,
)
_GRAM = 4
_GRAM_TIMES = 3
_SENTENCE_WORDS = 3
_DISTINCT_FROM = 30
_DISTINCT_SHARE = 0.3


def first_fault(caption: str, settings: CaptionSettings) -> str:
    """Name the first rule that a caption breaks, in the order of ``REJECTIONS``; or ``""``."""
    words = _WORD.findall(caption.lower())
    if refuses(caption):
        return "caption_refused"
    if len(words) < settings.min_words:
        return "caption_short"
    if repeats(caption):
        return "caption_repeats"
    if len(words) > settings.max_words:
        return "caption_long"
    if settings.human_terms and not human_terms([caption], settings.human_terms)[0]:
        return "caption_no_person"
    return ""


def refuses(caption: str) -> bool:
    """Say whether the model speaks of itself, or of not answering, in place of the picture."""
    return _REFUSES.search(caption) is not None


def repeats(caption: str) -> bool:
    """Say whether a caption goes round in circles, as small models do that find no end.

    It does if a sentence stands twice, if four words in a row stand three times, or if a long
    caption has few distinct words. The measures are those of Gopher, applied to so short a text.

    References:
        Rae et al., "Scaling Language Models", arXiv:2112.11446, table A1.
    """
    words = _WORD.findall(caption.lower())
    grams = Counter(zip(*(words[at:] for at in range(_GRAM)), strict=False))
    if any(times >= _GRAM_TIMES for times in grams.values()):
        return True
    if len(words) >= _DISTINCT_FROM and len(set(words)) < _DISTINCT_SHARE * len(words):
        return True
    sentences = [tuple(_WORD.findall(part)) for part in re.split(r"[.!?\n]+", caption.lower())]
    long = [sentence for sentence in sentences if len(sentence) >= _SENTENCE_WORDS]
    return len(set(long)) < len(long)
