"""Fetch pictures from the web, distrusting the web.

Whatever a URL leads to, the answer is one row: bytes, or one word from ``ERRORS`` and the values
behind it. No answer is waited for beyond the deadline, none is read beyond the cap, and no
redirect leads to where the URL itself could not have led.
"""

import asyncio
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from infra.errors import BadValue
from stages.addresses import ForbiddenAddress, GuardedResolver, forbidden, literal_ip
from stages.canonical import DEFAULT_PORT, canonical_url
from stages.types import Batch

USER_AGENT = "visage/0.1 (curates training data)"
PER_HOST = 8

_REDIRECTS = (301, 302, 303, 307, 308)
_WHOLE = (200, 203)
_DETAIL_CHARS = 300
_IDLE_S = 2.0  # of thousands of hosts few are asked again, and each open socket is counted
_HEADERS = {
    "Accept": "image/jpeg, image/png, image/webp, image/*;q=0.8, */*;q=0.5",
    "Accept-Encoding": "identity",  # pictures are compressed already
}


class _Refused(Exception):
    """One URL ends here: with an error and the values behind it."""

    def __init__(self, error: str, detail: str) -> None:
        self.error, self.detail = error, detail
        super().__init__(error, detail)


@dataclass(slots=True)
class _Answer:
    """What is known of one URL so far."""

    blob: bytes | None = None
    http_status: int | None = None
    final_url: str = ""
    redirects: int = 0
    fetch_s: float = 0.0
    error: str = ""
    error_detail: str = ""


class Fetch:
    """Turn ``url`` into ``blob``, or say why not.

    Connections live as long as the stage, in an event loop on a thread of its own, so that calls
    from several threads share them. Certificates are verified; cookies, proxies and passwords from
    the environment are not used. ``close`` ends it all, and happens by itself when the stage is
    forgotten.

    Args:
        concurrency: URLs fetched at once, over all calls; of these at most 8 from one host.
        connect_s: How long one connection may take to stand.
        deadline_s: How long one URL may take from request to last byte, redirects included.
            Waiting for a turn does not count.
        max_bytes: The largest body that is kept; of a larger one nothing is.
        max_redirects: How many redirects are followed.
        allow_loopback: Let 127.0.0.0/8 and ::1 pass: for tests and the quickstart.
        user_agent: How we introduce ourselves. Put an address in it that a webmaster can write to.
        make_resolver: Who turns names into addresses. Its answers are checked.
    """

    reads = ("url",)
    writes = ("blob", "http_status", "final_url", "fetch_s", "error", "error_detail")

    def __init__(
        self,
        concurrency: int = 64,
        connect_s: float = 5.0,
        deadline_s: float = 20.0,
        max_bytes: int = 20 * 2**20,
        max_redirects: int = 5,
        allow_loopback: bool = False,
        user_agent: str = USER_AGENT,
        make_resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver,
    ) -> None:
        if concurrency < 1:
            raise BadValue("concurrency", concurrency, "give at least 1.")
        self.connect_s, self.deadline_s = connect_s, deadline_s
        self.max_bytes, self.max_redirects = max_bytes, max_redirects
        self.allow_loopback = allow_loopback
        self._turns = asyncio.Semaphore(concurrency)
        self._host_turns: weakref.WeakValueDictionary[str, asyncio.Semaphore]
        self._host_turns = weakref.WeakValueDictionary()
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(concurrency, "resolve"))
        thread = threading.Thread(target=_run, args=(self._loop,), name="fetch", daemon=True)
        thread.start()
        opening = self._open(user_agent, make_resolver)
        self._session = asyncio.run_coroutine_threadsafe(opening, self._loop).result()
        self.close = weakref.finalize(self, _close, self._loop, thread, self._session)

    def __call__(self, batch: Batch) -> Batch:
        """Fetch every URL in ``batch``, in any order, and answer in theirs."""
        urls = [str(url) for url in batch["url"]]
        fetching = asyncio.run_coroutine_threadsafe(self._fetch_all(urls), self._loop)
        answers = fetching.result()
        return {name: [getattr(answer, name) for answer in answers] for name in self.writes}

    async def _open(
        self, user_agent: str, make_resolver: Callable[[], AbstractResolver]
    ) -> aiohttp.ClientSession:
        resolver = GuardedResolver(make_resolver(), allow_loopback=self.allow_loopback)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=resolver,
                limit=0,  # the turns count
                limit_per_host=PER_HOST,
                keepalive_timeout=_IDLE_S,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS | {"User-Agent": user_agent},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.connect_s),
            trust_env=False,
        )

    async def _fetch_all(self, urls: list[str]) -> list[_Answer]:
        return await asyncio.gather(*map(self._fetch, urls))

    async def _fetch(self, url: str) -> _Answer:
        """Wait for a turn, follow one URL, and put what happens into words."""
        answer = _Answer()
        start = perf_counter()
        try:
            target = self._admit(url)
            # Rows of one host wait here and not in the connector, where the deadline would run.
            host_turn = self._host_turns.setdefault(
                target.raw_authority, asyncio.Semaphore(PER_HOST)
            )
            async with host_turn, self._turns:
                start = perf_counter()
                async with asyncio.timeout(self.deadline_s):
                    answer.blob = await self._follow(target, answer)
        except Exception as problem:  # whatever a URL can do, it does it to its own row only
            answer.error, detail = self._explain(problem)
            if answer.redirects:
                detail += f" after {answer.redirects} redirect{'s' * (answer.redirects > 1)}"
            answer.error_detail = detail[:_DETAIL_CHARS]
        answer.fetch_s = perf_counter() - start
        return answer

    def _admit(self, url: str) -> URL:
        """Check scheme and host, as far as that can be done without asking for an address."""
        try:
            url = canonical_url(url)
        except ValueError as problem:
            raise _Refused("bad_url", str(problem)) from None
        scheme = url.partition(":")[0]
        if scheme not in DEFAULT_PORT:
            raise _Refused("forbidden_scheme", f"the scheme is {scheme!r}")
        target = URL(url, encoded=True)
        ip = literal_ip(target.raw_host or "")
        if ip is not None and forbidden(ip, self.allow_loopback):
            raise _Refused("forbidden_address", f"{ip} is not a public address")
        return target

    async def _follow(self, target: URL, answer: _Answer) -> bytes:
        """Ask, and ask again where redirects lead, until bytes come or there is a reason not to."""
        while True:
            answer.final_url = str(target)
            async with self._session.get(target, allow_redirects=False) as response:
                answer.http_status = status = response.status
                if status in _WHOLE:
                    return await self._read(response)
                if status not in _REDIRECTS or "Location" not in response.headers:
                    raise _Refused(_error_of(status), f"answered {status}")
                location = response.headers["Location"]
            if answer.redirects == self.max_redirects:
                raise _Refused("too_many_redirects", f"answered {status} again")
            answer.redirects += 1
            try:
                location = urljoin(str(target), location)
            except ValueError as problem:
                raise _Refused("bad_url", f"redirected to {location!r}: {problem}") from None
            target = self._admit(location)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """Read a body of at most ``max_bytes``, counted after any decompression."""
        if (response.content_length or 0) > self.max_bytes:
            raise _Refused(
                "too_large", f"{response.content_length} bytes announced, {self.max_bytes} allowed"
            )
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > self.max_bytes:
                raise _Refused("too_large", f"more than the {self.max_bytes} bytes allowed")
        if not body:
            raise _Refused("empty", f"answered {response.status} with no bytes")
        return bytes(body)

    def _explain(self, problem: Exception) -> tuple[str, str]:
        """Name an exception by one of ``ERRORS``, and say it in words."""
        match problem:  # the more special first: many of these are OSErrors, timeouts included
            case _Refused():
                return problem.error, problem.detail
            case ForbiddenAddress():
                return "forbidden_address", str(problem)
            case aiohttp.ClientConnectorDNSError():
                return "dns", f"{problem.host} cannot be resolved: {problem.os_error}"
            case aiohttp.ConnectionTimeoutError():
                return "connect", f"no connection within {self.connect_s:g} s"
            case TimeoutError():
                return "timeout", f"not complete within {self.deadline_s:g} s"
            case aiohttp.InvalidURL():
                return "bad_url", str(problem)
            case aiohttp.ClientResponseError():
                return "http_other", f"the answer is no HTTP: {problem.message}"
            case aiohttp.ClientError() | OSError():
                return "connect", str(problem) or type(problem).__name__
            case _:
                return "stage_failed", f"{type(problem).__name__}: {problem}"


def _error_of(status: int) -> str:
    return {4: "http_4xx", 5: "http_5xx"}.get(status // 100, "http_other")


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _close(
    loop: asyncio.AbstractEventLoop, thread: threading.Thread, session: aiohttp.ClientSession
) -> None:
    """Give up what is still under way, close the connections, end the loop and its thread."""

    async def end() -> None:
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await session.close()
        loop.stop()

    asyncio.run_coroutine_threadsafe(end(), loop)
    if thread is not threading.current_thread():  # the last to forget a stage may be its own loop
        thread.join(timeout=5)
