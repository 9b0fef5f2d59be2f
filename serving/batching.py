"""Requests that are alike run together, in one thread per device.

A batch costs less than its parts one after another, but only what has the same shape fits into
one. So requests wait in one queue, oldest first, and the oldest takes along whatever is like it.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from serving.errors import Refusal
from serving.pace import Pace

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Done(Generic[Result]):
    """An answer, and how it came about."""

    result: Result
    queued_s: float
    """From asking until its batch began."""
    running_s: float
    """From then until the batch ended."""
    batch: int
    """Pictures that were in the batch."""


@dataclass(eq=False, kw_only=True, slots=True)
class _Ticket(Generic[Item, Result]):
    """One request, from asking until its answer."""

    key: Hashable
    item: Item
    size: int
    work: float
    arrived: float
    answer: "asyncio.Future[Done[Result]]"
    left: bool = False
    """Whether nobody waits for the answer any more; read by the device's thread."""


class Batcher(Generic[Item, Result]):
    """Groups like requests and runs them on a thread of its own.

    Whether to wait for more is decided by what was seen: right after a batch it waits up to
    ``wait_s`` for as many requests as there were at once while that ran, since clients that were
    answered together ask again together. A single client, or the first after a pause, never waits.

    Belongs to the event loop on which it is first used.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item], Callable[[], bool]], Sequence[Result]],
        *,
        batch: int,
        wait_s: float,
        queue: int,
        slowdown: float = 0.0,
    ) -> None:
        """Run nothing yet.

        Args:
            run: Answers items of one key, in their order, on the device's thread. It asks its
                second argument now and then whether all who wait have left, and then raises.
            batch: Pictures that are run together at most; a larger request is run alone.
            wait_s: Longest that an idle device waits for a batch to fill.
            queue: Pictures that may wait.
            slowdown: How many times as long as alone a request may take; one that would take
                longer is refused at once. 0: as long as the queue allows.
        """
        self._run, self._batch, self._wait_s, self._queue = run, batch, wait_s, queue
        self._slowdown, self._pace = slowdown, Pace()
        self._waiting: list[_Ticket[Item, Result]] = []
        self._running: list[_Ticket[Item, Result]] = []
        self._woken = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._closing = False
        self._crowd = 0
        self._began, self._free_since, self._last_s = 0.0, -math.inf, 0.0

    @property
    def waiting(self) -> int:
        """Pictures in the queue."""
        return sum(ticket.size for ticket in self._waiting)

    @property
    def running(self) -> int:
        """Pictures on the device."""
        return sum(ticket.size for ticket in self._running)

    @property
    def per_s(self) -> float:
        """Pictures per second of work, lately; 0 before the first batch."""
        return self._pace.pictures_per_s

    async def submit(
        self, key: Hashable, item: Item, size: int = 1, work: float = 1.0
    ) -> Done[Result]:
        """Wait for the answer to one request.

        If the awaiting task is cancelled, a waiting request is forgotten, and a running batch is
        told to stop once all its requests were.

        Args:
            key: Equal for requests that can run together.
            item: What ``run`` is given.
            size: Pictures that it asks for.
            work: Of each of them, in any unit that time is proportional to.

        Raises:
            Refusal: ``overloaded``, with the seconds until there should be room, or
                ``shutting_down``.
        """
        if self._closing:
            raise _shutting_down()
        if self._waiting and self.waiting + size > self._queue:
            raise self._overloaded()
        loop = asyncio.get_running_loop()
        if self._worker is None:
            self._worker = loop.create_task(self._work(), name="batcher")
        ticket: _Ticket[Item, Result] = _Ticket(
            key=key, item=item, size=size, work=work, arrived=time.monotonic(),
            answer=loop.create_future(),
        )  # fmt: skip
        if self._slowdown and self._takes_too_long(ticket):
            raise self._overloaded()
        self._waiting.append(ticket)
        self._crowd = max(self._crowd, len(self._waiting) + len(self._running))
        self._woken.set()
        try:
            return await ticket.answer
        finally:
            ticket.left = True
            if ticket in self._waiting:
                self._waiting.remove(ticket)

    async def close(self, drain_s: float = math.inf) -> None:
        """Take nothing new, finish what was taken, end the thread.

        Args:
            drain_s: How long that may take; what is left then is refused with ``shutting_down``.
        """
        self._closing = True
        self._woken.set()
        if self._worker is not None:
            timeout = None if math.isinf(drain_s) else drain_s
            await asyncio.wait([self._worker], timeout=timeout)
            for ticket in [*self._waiting, *self._running]:
                ticket.left = True
                if not ticket.answer.done():
                    ticket.answer.set_exception(_shutting_down())
            self._waiting.clear()
            await self._worker
        self._thread.shutdown()

    async def _work(self) -> None:
        """Run batch after batch until closed and empty."""
        try:
            while await self._ready():
                await self._run_together(self._oldest_group())
        finally:
            # An event loop that is torn down must not leave the device at work.
            for ticket in self._running:
                ticket.left = True

    async def _ready(self) -> bool:
        """Wait until a batch is worth running; say False when there will be none."""
        while True:
            self._woken.clear()
            if not self._waiting:
                if self._closing:
                    return False
                await self._woken.wait()
                continue
            left_s = self._patience_s()
            if left_s <= 0:
                return True
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), left_s)

    def _patience_s(self) -> float:
        """Return how much longer the oldest request should wait for company."""
        oldest = self._waiting[0]
        alike = sum(ticket.size for ticket in self._waiting if ticket.key == oldest.key)
        if self._closing or alike >= self._batch or len(self._waiting) >= self._crowd:
            return 0.0
        # What was seen during the last batch says nothing after a pause as long as that.
        if oldest.arrived - self._free_since > max(self._wait_s, self._last_s):
            return 0.0
        return max(oldest.arrived, self._free_since) + self._wait_s - time.monotonic()

    def _takes_too_long(self, ticket: _Ticket[Item, Result]) -> bool:
        """Predict when a request would be answered, and those that would wait for it.

        What is ahead counts as it is: behind a long request a short one may wait as that may.
        """
        if not self._waiting and not self._running:
            return False
        waiting, ahead_s, longest_s = [*self._waiting, ticket], 0.0, 0.0
        if self._running:
            ran_s = time.monotonic() - self._began
            ahead_s = max(0.0, self._seconds(self._running, surely=True) - ran_s)
            longest_s = max(self._seconds([held]) for held in self._running)
        group: list[_Ticket[Item, Result]] = []
        while ticket not in group:
            group = self._group(waiting)
            waiting = [held for held in waiting if held not in group]
            ahead_s += self._seconds(group, surely=True)
            longest_s = max(longest_s, *(self._seconds([held]) for held in group))
        waited_s = ticket.arrived - min(held.arrived for held in group)
        return waited_s + ahead_s > self._slowdown * longest_s

    def _seconds(self, group: Sequence[_Ticket[Item, Result]], *, surely: bool = False) -> float:
        pictures = sum(held.size for held in group)
        return self._pace.seconds(pictures, group[0].work, surely=surely)

    def _oldest_group(self) -> list[_Ticket[Item, Result]]:
        """Take the oldest request out of the queue, and what is like it and fits."""
        group = self._group(self._waiting)
        self._waiting = [ticket for ticket in self._waiting if ticket not in group]
        return group

    def _group(self, waiting: Sequence[_Ticket[Item, Result]]) -> list[_Ticket[Item, Result]]:
        oldest = waiting[0]
        group, room = [oldest], self._batch - oldest.size
        for ticket in waiting[1:]:
            if ticket.key == oldest.key and ticket.size <= room:
                group.append(ticket)
                room -= ticket.size
        return group

    async def _run_together(self, group: list[_Ticket[Item, Result]]) -> None:
        self._running = group
        self._crowd = len(group) + len(self._waiting)
        self._began = began = time.monotonic()
        size = self.running
        loop = asyncio.get_running_loop()
        outcomes = await loop.run_in_executor(self._thread, self._attempt, group)
        ended = time.monotonic()
        self._running, self._free_since, self._last_s = [], ended, ended - began
        if not all(ticket.left for ticket in group):
            self._pace.saw(size, group[0].work, ended - began)
        for ticket, outcome in zip(group, outcomes, strict=True):
            if ticket.answer.done():
                continue
            if isinstance(outcome, Exception):
                ticket.answer.set_exception(outcome)
                continue
            ticket.answer.set_result(
                Done(
                    result=outcome,
                    queued_s=began - ticket.arrived,
                    running_s=ended - began,
                    batch=size,
                )
            )

    def _attempt(self, group: Sequence[_Ticket[Item, Result]]) -> Sequence[Result | Exception]:
        """Run a group on the device's thread; if it fails, each alone, so that one fails alone."""
        try:
            results = self._run(
                [ticket.item for ticket in group], lambda: all(ticket.left for ticket in group)
            )
            if len(results) != len(group):
                raise ValueError(f"{len(group)} requests were run, {len(results)} answered")  # noqa: TRY301
        except Exception as error:
            if len(group) == 1 or all(ticket.left for ticket in group):
                return [error] * len(group)
            logger.warning("A batch of %d failed (%r); each is run alone.", len(group), error)
            return [self._attempt([t])[0] if not t.left else error for t in group]
        return results

    def _overloaded(self) -> Refusal:
        ahead = self.waiting + self.running
        # Clients that come back in a crowd would find the same queue: no less than a second.
        wait_s = max(1, math.ceil(ahead / self.per_s)) if self.per_s else 1
        return Refusal(
            "overloaded",
            f"{ahead} pictures are ahead, and {self._queue} may wait; come back in {wait_s} s.",
            {"waiting": self.waiting, "queue": self._queue},
            retry_after_s=wait_s,
        )


def _shutting_down() -> Refusal:
    return Refusal("shutting_down", "This server is stopping; ask again.", retry_after_s=1)
