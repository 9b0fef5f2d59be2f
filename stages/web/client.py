"""Ask one address one thing, within every bound, and never where we may not."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from ipaddress import ip_network
from typing import TypeVar
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from stages.web.addresses import Guard, GuardedResolver, literal_ip
from stages.web.canonical import DEFAULT_PORT, canonical_url
from stages.web.refusal import Refused, explain
from stages.web.settings import FetchSettings

Result = TypeVar("Result")

AGENT = "visage"
"""Our product token: the name by which robots.txt and X-Robots-Tag speak to us."""

_REDIRECTS = (301, 302, 303, 307, 308)
_IDLE_S = 2.0  # of thousands of hosts few are asked again, and each open socket is counted
_MOST_HEADERS = 128
_HEADERS = {
    "Accept": "image/jpeg, image/png, image/webp, image/*;q=0.8, */*;q=0.5",
    "Accept-Encoding": "identity",  # pictures are compressed already
}


def user_agent(contact: str) -> str:
    """Say who we are and whom to write to."""
    about = f" (curates training data; +{contact})" if contact else " (curates training data)"
    return f"{AGENT}/{version('visage')}{about}"


class Client:
    """Ask over HTTP: certificates are verified, no cookies, no proxies, no passwords.

    It must be made and used inside one event loop.

    Args:
        settings: The bounds.
        resolver: Who turns names into addresses. Its answers are checked.
    """

    def __init__(self, settings: FetchSettings, resolver: AbstractResolver) -> None:
        self.settings = settings
        self._guard = Guard(
            settings.allow_loopback,
            tuple(map(ip_network, settings.allow_private)),
            only_loopback=not settings.contact,
        )
        line_bytes = min(8190, settings.max_header_bytes)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=GuardedResolver(resolver, self._guard),
                limit=0,  # turns are given out elsewhere
                keepalive_timeout=_IDLE_S,
                ssl=ssl.create_default_context(),  # reads SSL_CERT_FILE now, not at import
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS | {"User-Agent": user_agent(settings.contact)},
            timeout=aiohttp.ClientTimeout(total=None, connect=settings.connect_s),
            max_line_size=line_bytes,
            max_field_size=line_bytes,
            max_headers=_MOST_HEADERS,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    def admit(self, url: str) -> URL:
        """Check scheme and host, as far as that can be done without asking for an address.

        Raises:
            Refused: ``bad_url``, ``forbidden_scheme`` or ``forbidden_address``.
        """
        try:
            url = canonical_url(url)
        except ValueError as problem:
            raise Refused("bad_url", str(problem)) from None
        scheme = url.partition(":")[0]
        if scheme not in DEFAULT_PORT:
            raise Refused("forbidden_scheme", f"the scheme is {scheme!r}")
        target = URL(url, encoded=True)
        ip = literal_ip(target.raw_host or "")
        if ip is not None and (why := self._guard.why_not(ip)):
            raise Refused("forbidden_address", f"{ip} {why}")
        return target

    async def ask(
        self,
        target: URL,
        deadline_s: float,
        read: Callable[[aiohttp.ClientResponse], Awaitable[Result]],
        headers: Mapping[str, str] | None = None,
    ) -> Result:
        """Send one GET, follow nothing, and return what ``read`` makes of the answer.

        Args:
            target: An admitted address.
            deadline_s: How long all of it may take, connection and body included.
            read: Given the answer once its headers are there.
            headers: Further headers of the request.

        Raises:
            Refused: Whatever happened instead.
        """
        early_s = min(self.settings.first_byte_s, deadline_s)
        answered = garbled = False
        try:
            async with asyncio.timeout(early_s) as limit:
                async with self._session.get(
                    target, allow_redirects=False, headers=headers
                ) as response:
                    answered = True
                    limit.reschedule((limit.when() or 0.0) + deadline_s - early_s)
                    self._check_headers(response)
                    try:
                        return await read(response)
                    finally:
                        garbled = _hung_up(response)
        except TimeoutError as problem:
            if isinstance(problem, aiohttp.ServerTimeoutError):
                raise explain(problem, self.settings.connect_s) from None
            if garbled:
                raise Refused("bad_http", "the body is garbled, and ends in nothing") from None
            if not answered and early_s < deadline_s:
                detail = f"no answer within {early_s:g} s"
                raise Refused("first_byte", detail, heals=True) from None
            detail = f"not complete within {self.settings.deadline_s:g} s"
            raise Refused("timeout", detail, heals=True) from None
        except Exception as problem:  # whatever a server can do, it does it to its own row only
            raise explain(problem, self.settings.connect_s) from problem

    def redirects(self, response: aiohttp.ClientResponse) -> bool:
        """Say whether an answer sends us elsewhere."""
        return response.status in _REDIRECTS and "Location" in response.headers

    def following(self, response: aiohttp.ClientResponse) -> URL:
        """Return where an answer sends us, admitted.

        Raises:
            Refused: It sends us where we may not go.
        """
        location = response.headers["Location"]
        try:
            return self.admit(urljoin(str(response.url), location))
        except ValueError as problem:
            raise Refused("bad_url", f"redirected to {location!r}: {problem}") from None

    def _check_headers(self, response: aiohttp.ClientResponse) -> None:
        size = sum(len(name) + len(value) + 4 for name, value in response.raw_headers)
        if size > self.settings.max_header_bytes:
            allowed = self.settings.max_header_bytes
            raise Refused("too_many_headers", f"{size} bytes of headers, {allowed} allowed")


def _hung_up(response: aiohttp.ClientResponse) -> bool:
    """Say whether the connection has gone while a body is still being waited for.

    aiohttp 3.14 does this when a chunk's length, in a packet of its own, is no number: it closes
    the connection, and whoever reads the body is never told.
    """
    connection = response.connection
    protocol = connection.protocol if connection is not None else None
    return protocol is not None and not protocol.is_connected()
