"""Ask each origin's robots.txt, once a day at most, whether we may ask for the rest.

References:
    RFC 9309, Robots Exclusion Protocol. Crawl-delay is not in it, and obeyed all the same.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic

from protego import Protego
from yarl import URL

from stages.web.refusal import Refused

MAX_BYTES = 500 * 2**10
"""What is read of a robots.txt; RFC 9309 asks for this much at least."""
LONGEST_S, SHORTEST_S = 24 * 3600.0, 300.0
"""For how long an answer is good, whatever its Cache-Control says."""
UNAVAILABLE_S = 600.0
"""For how long a server that fails is not asked for anything."""
_KEPT_ORIGINS = 10_000
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?([0-9]{1,9})")
_NO_ANSWER = {"timeout", "first_byte", "truncated", "bad_http", "too_many_headers",
              "too_many_redirects", "http_5xx", "http_4xx", "http_other"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RobotsFile:
    """What an origin answered when asked for its robots.txt."""

    status: int
    body: bytes = b""
    """At most ``MAX_BYTES`` of it."""
    cache_control: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """What an origin allows us, and until when that is known."""

    until_s: float
    parsed: Protego | None = None
    refusal: Refused | None = None
    """Why nothing may be asked at all."""


class Robots:
    """Remember the rules of many origins. Rows that ask for the same one wait for one request.

    Args:
        read: Gets the robots.txt of an origin; raises ``Refused``.
        agent: Our product token.
        patience_s: A longer Crawl-delay is a refusal: nobody can wait so long.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        read: Callable[[URL], Awaitable[RobotsFile]],
        agent: str,
        patience_s: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._read, self._agent, self._patience_s = read, agent, patience_s
        self._clock = clock
        self._known: OrderedDict[URL, asyncio.Task[Rules]] = OrderedDict()

    async def delay_s(self, url: URL) -> float:
        """Return how long to wait between requests to this origin; 0 where it does not say.

        Raises:
            Refused: ``robots_disallowed``, ``robots_unavailable``, or what kept us from asking.
        """
        rules = await self._rules(url.origin())
        if rules.refusal is not None:
            raise rules.refusal
        if rules.parsed is None:
            return 0.0
        if not rules.parsed.can_fetch(str(url), self._agent):
            raise Refused("robots_disallowed", f"robots.txt disallows {url.raw_path_qs[:200]}")
        delay_s = rules.parsed.crawl_delay(self._agent) or 0.0
        if rate := rules.parsed.request_rate(self._agent):
            delay_s = max(delay_s, rate.seconds / max(rate.requests, 1))
        if delay_s > self._patience_s:
            raise Refused("robots_disallowed", f"robots.txt wants {delay_s:g} s between requests")
        return delay_s

    async def _rules(self, origin: URL) -> Rules:
        task = self._known.get(origin)
        if task is None or (task.done() and task.result().until_s < self._clock()):
            task = self._known[origin] = asyncio.create_task(self._ask(origin))
            if len(self._known) > _KEPT_ORIGINS:
                self._known.popitem(last=False)
        return task.result() if task.done() else await task

    async def _ask(self, origin: URL) -> Rules:
        try:
            file = await self._read(origin / "robots.txt")
        except Refused as refused:
            unavailable = refused.error in _NO_ANSWER
            detail = f"robots.txt: {refused.detail}"
            error = "robots_unavailable" if unavailable else refused.error
            return Rules(self._clock() + UNAVAILABLE_S, refusal=Refused(error, detail))
        if file.status >= 500 or file.status == 429:  # RFC 9309, 2.3.1.4; 429 as crawlers take it
            refusal = Refused("robots_unavailable", f"robots.txt: answered {file.status}")
            return Rules(self._clock() + UNAVAILABLE_S, refusal=refusal)
        until_s = self._clock() + _good_for_s(file.cache_control)
        if file.status not in (200, 203):
            return Rules(until_s)  # there is none, so all is allowed: RFC 9309, 2.3.1.3
        text = file.body[:MAX_BYTES].decode("utf-8", "replace").removeprefix("\ufeff")
        return Rules(until_s, parsed=Protego.parse(text))


def _good_for_s(cache_control: str) -> float:
    """Return for how long an answer is good."""
    found = _MAX_AGE.search(cache_control.lower())
    return LONGEST_S if found is None else min(LONGEST_S, max(SHORTEST_S, float(found[1])))
