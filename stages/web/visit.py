"""Follow one URL to its end: may we, our turn, redirects, opt-outs, the body, another try."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import aiohttp
from yarl import URL

from stages.web.body import read_body
from stages.web.client import AGENT, Client
from stages.web.optouts import opt_out
from stages.web.pace import Pace
from stages.web.refusal import Refused, explain, of_status
from stages.web.retries import Retries, retry_after_s
from stages.web.robots import MAX_BYTES, Robots, RobotsFile

Result = TypeVar("Result")

_WHOLE = (200, 203)
_UNCHANGED = 304
_DETAIL_CHARS = 300


@dataclass(slots=True)
class Answer:
    """What is known of one URL so far; the fields are columns."""

    blob: bytes | None = None
    file: str = ""
    http_status: int | None = None
    final_url: str = ""
    redirects: int = 0
    attempts: int = 0
    fetch_s: float = 0.0
    opt_out: str = ""
    etag: str = ""
    last_modified: str = ""
    error: str = ""
    error_detail: str = ""


class Visitor:
    """Visit URLs, politely, many at once.

    Args:
        client: Who asks.
        pace: Who gives out turns.
        rng: Where the jitter of pauses comes from.
        shares: How many visitors like this share each host's patience.
        spool: The folder for videos.
    """

    def __init__(
        self,
        client: Client,
        pace: Pace,
        rng: random.Random,
        shares: int = 1,
        spool: Path | None = None,
    ) -> None:
        self.settings = client.settings
        self._client, self._pace, self._shares, self._spool = client, pace, shares, spool
        self._retries = Retries(self.settings.attempts, self.settings.budget_s, rng)
        self._robots = Robots(self._read_robots, AGENT, self.settings.budget_s)

    async def visit(self, url: str, known: Mapping[str, str] | None = None) -> Answer:
        """Return what became of ``url``; nothing is raised.

        Args:
            url: Any text.
            known: Headers that tell which version we have, such as If-None-Match.
        """
        answer = Answer()
        try:
            target = self._client.admit(url)
            await self._persist(lambda: self._attempt(target, answer, known), answer)
        except Exception as problem:
            refused = explain(problem, self.settings.connect_s)
            detail = refused.detail
            if answer.redirects:
                detail += f" after {answer.redirects} redirect{'s' * (answer.redirects > 1)}"
            answer.error, answer.error_detail = refused.error, detail[:_DETAIL_CHARS]
        return answer

    async def _persist(self, attempt: Callable[[], Awaitable[Result]], answer: Answer) -> Result:
        """Try until it works, cannot work, or has been tried enough."""
        paused_s = 0.0
        while True:
            answer.attempts += 1
            try:
                return await attempt()
            except Refused as refused:
                if not refused.heals:
                    raise
                spent_s = answer.fetch_s + paused_s
                pause_s = self._retries.pause_s(answer.attempts, spent_s, refused.after_s)
                if pause_s is None:
                    raise
                paused_s += pause_s
                await asyncio.sleep(pause_s)

    async def _attempt(self, target: URL, answer: Answer, known: Mapping[str, str] | None) -> None:
        """Ask, and ask again where redirects lead, until a body comes or a reason not to."""
        answer.redirects, answer.opt_out, left_s = 0, "", self.settings.deadline_s
        following: URL | None = target
        while following is not None:
            target, before_s = following, answer.fetch_s
            answer.final_url = str(target)
            delay_s = 0.0
            if self.settings.robots == "obey":
                delay_s = await self._robots.delay_s(target)
            following = await self._hop(
                target, left_s, delay_s, answer, lambda found: self._take(found, answer), known
            )
            left_s -= answer.fetch_s - before_s

    async def _hop(
        self,
        target: URL,
        left_s: float,
        delay_s: float,
        answer: Answer,
        read: Callable[[aiohttp.ClientResponse], Awaitable[Result]],
        known: Mapping[str, str] | None = None,
    ) -> Result:
        """Wait for a turn and ask once; tell the pace how the host took it."""
        host = target.raw_authority
        async with self._pace.turn(host, delay_s * self._shares):
            began = perf_counter()
            try:
                result = await self._client.ask(target, left_s, read, known)
            except Refused as refused:
                if refused.error == "connect":
                    self._pace.missed(host)
                else:
                    self._pace.reached(host)
                if refused.after_s:
                    self._pace.rest(host, refused.after_s, f"wants {refused.after_s:g} s of rest")
                raise
            finally:
                answer.fetch_s += perf_counter() - began
        self._pace.reached(host)
        return result

    async def _take(self, response: aiohttp.ClientResponse, answer: Answer) -> URL | None:
        """Take the body, or return where to go instead.

        Raises:
            Refused: There is neither, or we are asked not to use it.
        """
        answer.http_status = status = response.status
        if said := opt_out(response.headers, AGENT):
            answer.opt_out = said
            if self.settings.optouts == "obey":
                raise Refused("opted_out", f"the server says {said}")
        if status in _WHOLE:
            body = await read_body(response, self.settings, self._spool)
            answer.blob, answer.file = body.blob, body.file
            answer.etag = response.headers.get("ETag", "")
            answer.last_modified = response.headers.get("Last-Modified", "")
            return None
        asked = response.request_info.headers
        if status == _UNCHANGED and ("If-None-Match" in asked or "If-Modified-Since" in asked):
            raise Refused("unchanged", "answered 304")
        return self._elsewhere(response, answer)

    def _elsewhere(self, response: aiohttp.ClientResponse, answer: Answer) -> URL:
        """Return where an answer without a body sends us."""
        if not self._client.redirects(response):
            raise of_status(response.status, retry_after_s(response.headers.get("Retry-After", "")))
        if answer.redirects >= self.settings.max_redirects:
            raise Refused("too_many_redirects", f"answered {response.status} again")
        answer.redirects += 1
        return self._client.following(response)

    async def _read_robots(self, target: URL) -> RobotsFile:
        """Get a robots.txt, with the same bounds, guards and tries as a picture."""
        asked = Answer()

        async def read(response: aiohttp.ClientResponse) -> RobotsFile | URL:
            if self._client.redirects(response):
                return self._elsewhere(response, asked)
            if response.status >= 500 or response.status == 429:
                raise of_status(response.status)
            body = bytearray()
            if response.status in _WHOLE:
                while len(body) < MAX_BYTES and (piece := await response.content.readany()):
                    body += piece
            cache_control = response.headers.get("Cache-Control", "")
            return RobotsFile(response.status, bytes(body[:MAX_BYTES]), cache_control)

        async def attempt() -> RobotsFile:
            asked.redirects, following = 0, target
            while True:
                found = await self._hop(following, self.settings.deadline_s, 0.0, asked, read)
                if isinstance(found, RobotsFile):
                    return found
                following = found

        return await self._persist(attempt, asked)
