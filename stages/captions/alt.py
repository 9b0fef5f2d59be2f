"""The page's own text as a caption, without what is for machines and shops."""

import html
import re
import unicodedata

_TAG = re.compile(r"<[^<>]{0,500}>")
_URL = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
_FILE = re.compile(r"\S+\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg)\b", re.IGNORECASE)
_CODE = re.compile(r"\b(?:[a-z]{0,3}[\d_-]*\d{4,}[\w-]*|[0-9a-f]{16,})\b", re.IGNORECASE)
_YEAR = re.compile(r"(?:1[89]|20)\d\ds?(?:-(?:\d\d){1,2}|-[a-z]+)?", re.IGNORECASE)
_SELLS = re.compile(
    r"\b(?:(?:royalty[- ]free|stock|premium) )+(?:photo(?:graph)?|image|picture|footage)s?\b"
    r"|\b(?:getty images|shutterstock|istock(?:photo)?|alamy|adobe stock|dreamstime)\b"
    r"|\bdepositphotos\b"
    r"|\b(?:click|tap) (?:here|to)\b[^.|]*|\bfree download\b|\u00a9[^.|]*|\ball rights reserved\b",
    re.IGNORECASE,
)
_SITE = re.compile(r"\s+[|\u2013\u2014\u00b7\u2022-]\s+[^|\u2013\u2014\u00b7\u2022-]{0,40}$")
_SPACE = re.compile(r"\s+")
_EDGE = " \t|,;:-\u2013\u2014\u00b7\u2022/_"


def clean(text: str) -> str:
    """Return the part of an alt text that speaks of the picture.

    Entities are resolved; tags, addresses, file names, serial numbers, the words of picture shops
    and a last part in the manner of "Title | Site" are left out. What remains is in NFC, on one
    line. Years stay.
    """
    text = unicodedata.normalize("NFC", html.unescape(html.unescape(text)))
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Cf") else c for c in text)
    for noise in (_TAG, _URL, _FILE, _SELLS):
        text = noise.sub(" ", text)
    text = _CODE.sub(lambda match: match[0] if _YEAR.fullmatch(match[0]) else " ", text)
    text = _SPACE.sub(" ", text).strip()
    if "|" in text:
        text = _SITE.sub("", text)
    return _SPACE.sub(" ", re.sub(r"\(\s*\)|\[\s*\]", " ", text)).strip(_EDGE)
