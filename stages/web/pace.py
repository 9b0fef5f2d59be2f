"""Ask each host only as often, and as much at once, as is polite; leave alone who wants rest."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic

from stages.web.refusal import Refused

MISSES, MISSING_S = 16, 10.0
"""After so many failures in a row to connect, over so long, a host is left alone for a while: a
server that is being restarted is not yet one that is gone."""
MISSING_PAUSE_S = 300.0
_KEPT_HOSTS = 10_000


@dataclass(slots=True)
class _Host:
    turns: asyncio.Semaphore
    present: int = 0
    """Rows that have, or wait for, a turn."""
    next_s: float = 0.0
    """When the next request may begin."""
    resting_until_s: float = 0.0
    why: str = ""
    misses: int = 0
    """Failures to connect, in a row."""
    missing_since_s: float = 0.0


@dataclass(slots=True)
class Pace:
    """Give out turns. All times are those of ``clock``, in seconds."""

    concurrency: int
    """Turns at once, over all hosts."""
    per_host: int
    """Turns at once for one host."""
    interval_s: float
    """From the beginning of one request to the next, of one host."""
    patience_s: float
    """A host that wants a longer rest is not waited for."""
    clock: Callable[[], float] = monotonic
    _turns: asyncio.Semaphore = field(init=False)
    _hosts: dict[str, _Host] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._turns = asyncio.Semaphore(self.concurrency)

    @asynccontextmanager
    async def turn(self, name: str, delay_s: float = 0.0) -> AsyncIterator[None]:
        """Wait for a turn with a host, and hold it.

        Rows of one host wait here and not in the connector, where their deadline would run.

        Args:
            name: The host, with its port.
            delay_s: From one request to the next, as the host itself wants it.

        Raises:
            Refused: ``host_paused``: it wants a longer rest than ``patience_s``.
        """
        host = self._host(name)
        host.present += 1
        try:
            async with host.turns:
                await self._rest(host, max(self.interval_s, delay_s))
                async with self._turns:
                    yield
        finally:
            host.present -= 1

    def rest(self, name: str, for_s: float, why: str) -> None:
        """Leave a host alone for a while."""
        host = self._host(name)
        until_s = self.clock() + for_s
        if until_s > host.resting_until_s:
            host.resting_until_s, host.why = until_s, why

    def reached(self, name: str) -> None:
        """Note that a host has answered, whatever it said."""
        self._host(name).misses = 0

    def missed(self, name: str) -> None:
        """Note that a host could not be connected to; after many in a row it gets a rest."""
        host = self._host(name)
        if host.misses == 0:
            host.missing_since_s = self.clock()
        host.misses += 1
        if host.misses >= MISSES and self.clock() - host.missing_since_s >= MISSING_S:
            self.rest(name, MISSING_PAUSE_S, f"could not be reached {host.misses} times in a row")

    async def _rest(self, host: _Host, interval_s: float) -> None:
        """Wait until a request may begin, and take its place in time."""
        while True:
            now_s = self.clock()
            if host.resting_until_s - now_s > self.patience_s:
                left_s = host.resting_until_s - now_s
                raise Refused("host_paused", f"the host {host.why}; {left_s:.0f} s are left")
            wait_s = max(host.next_s, host.resting_until_s) - now_s
            if wait_s <= 0:
                host.next_s = now_s + interval_s
                return
            await asyncio.sleep(wait_s)

    def _host(self, name: str) -> _Host:
        host = self._hosts.get(name)
        if host is None:
            if len(self._hosts) >= _KEPT_HOSTS:
                self._forget()
            host = self._hosts[name] = _Host(asyncio.Semaphore(self.per_host))
        return host

    def _forget(self) -> None:
        """Drop the hosts of which nothing needs to be remembered."""
        now_s = self.clock()
        self._hosts = {
            name: host
            for name, host in self._hosts.items()
            if host.present or max(host.next_s, host.resting_until_s) > now_s
        }
