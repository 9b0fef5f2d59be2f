"""Hear a server say, in the headers of its answer, that we may not use what it sends.

References:
    X-Robots-Tag: https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag;
    noai and noimageai: https://www.deviantart.com/team/journal/UPDATE-All-Deviations-Are-Opted-Out-of-AI-Datasets-934500371;
    tdm-reservation: W3C TDM Reservation Protocol, https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240510/.
"""

from multidict import CIMultiDict, CIMultiDictProxy

_REFUSALS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
_VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
"""Directives before a colon; any other word there is the name of whom the rest is meant for."""


def opt_out(headers: CIMultiDictProxy[str] | CIMultiDict[str], agent: str) -> str:
    """Return what the headers say against our using the answer, such as "x-robots-tag: noai".

    Args:
        headers: Of the answer.
        agent: Our product token in lower case. What is said to others by name is not meant for us.

    Returns:
        All refusals, joined by "; "; "" if there is none.
    """
    said = [
        f"x-robots-tag: {directive}"
        for line in headers.getall("X-Robots-Tag", ())
        for directive in _directives(line, agent)
        if directive in _REFUSALS
    ]
    if headers.get("tdm-reservation", "").strip() == "1":
        said.append("tdm-reservation: 1")
    return "; ".join(dict.fromkeys(said))


def _directives(line: str, agent: str) -> list[str]:
    """List the directives of one header that are meant for everybody or for ``agent``."""
    meant, found = True, []
    for part in line.lower().split(","):
        name, colon, rest = (word.strip() for word in part.partition(":"))
        if not colon:
            directive = name
        elif name in _VALUED:
            continue
        else:
            meant, directive = name in (agent, "*"), rest
        if meant:
            found.append(directive)
    return found
