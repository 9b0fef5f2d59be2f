"""Fetch pictures from the web, distrusting the web.

Whatever a URL leads to, the answer is one row: bytes, or one word from ``ERRORS`` and the values
behind it. No answer is waited for beyond its deadline, none is read beyond its cap, no redirect
leads to where the URL itself could not have led, and nobody is asked who does not want to be.
"""

import asyncio
import random
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver

from infra.errors import BadValue
from stages.types import Batch
from stages.web.client import Client
from stages.web.pace import Pace
from stages.web.settings import FetchSettings
from stages.web.visit import Answer, Visitor

_VALIDATORS = {"etag": "If-None-Match", "last_modified": "If-Modified-Since"}


class Fetch:
    """Turn ``url`` into ``blob``, or say why not.

    Connections live as long as the stage, in an event loop on a thread of its own, so that calls
    from several threads share them. ``close`` ends it all, and happens by itself when the stage is
    forgotten.

    Args:
        settings: Bounds and courtesies.
        shares: How many stages like this ask the same hosts; each takes its share of what a host
            is asked.
        spool: The folder for videos, which come as ``file`` and not as ``blob``; local to where
            they are read.
        refresh: Read ``etag`` and ``last_modified`` too, and ask for a picture only if it is
            another version; the same one ends as ``unchanged``.
        seed: Of the jitter between attempts; None: another one in every process.
        make_resolver: Who turns names into addresses. Its answers are checked.

    Raises:
        BadValue: Videos are to be fetched, and there is no folder for them.
    """

    reads: tuple[str, ...] = ("url",)
    writes = (
        "blob", "file", "http_status", "final_url", "attempts", "fetch_s", "opt_out", "etag",
        "last_modified", "error", "error_detail",
    )  # fmt: skip

    def __init__(
        self,
        settings: FetchSettings,
        *,
        shares: int = 1,
        spool: Path | None = None,
        refresh: bool = False,
        seed: int | None = None,
        make_resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver,
    ) -> None:
        if settings.takes_videos and spool is None:
            raise BadValue("fetch.types", settings.types, "name images only: videos need a spool.")
        self.settings = settings
        if refresh:
            self.reads = ("url", *_VALIDATORS)
        self._loop = asyncio.new_event_loop()
        # Names are looked up in threads; more than this at once is more than resolvers like.
        self._loop.set_default_executor(
            ThreadPoolExecutor(min(settings.concurrency, 32), "resolve")
        )
        thread = threading.Thread(target=_run, args=(self._loop,), name="fetch", daemon=True)
        thread.start()
        pace = Pace(
            concurrency=settings.concurrency,
            per_host=max(1, settings.per_host // shares),
            interval_s=shares / settings.rate_per_host_s if settings.rate_per_host_s else 0.0,
            patience_s=settings.budget_s,
        )
        opening = _open(settings, make_resolver)
        client = asyncio.run_coroutine_threadsafe(opening, self._loop).result()
        self._visitor = Visitor(client, pace, random.Random(seed), shares, spool)
        self.close = weakref.finalize(self, _close, self._loop, thread, client)

    def __call__(self, batch: Batch) -> Batch:
        """Fetch every URL in ``batch``, in any order, and answer in theirs."""
        urls = [str(url) for url in batch["url"]]
        known = [_known(*pair) for pair in zip(*(batch[n] for n in self.reads[1:]), strict=True)]
        visits = _visit_all(self._visitor, urls, known or [{}] * len(urls))
        visiting = asyncio.run_coroutine_threadsafe(visits, self._loop)
        answers = visiting.result()
        return {name: [getattr(answer, name) for answer in answers] for name in self.writes}


async def _open(settings: FetchSettings, make_resolver: Callable[[], AbstractResolver]) -> Client:
    return Client(settings, make_resolver())


async def _visit_all(
    visitor: Visitor, urls: list[str], known: list[dict[str, str]]
) -> list[Answer]:
    return await asyncio.gather(*map(visitor.visit, urls, known))


def _known(*values: str | None) -> dict[str, str]:
    """Return the headers that ask for another version than the one that has these validators."""
    return {name: value for name, value in zip(_VALIDATORS.values(), values, strict=True) if value}


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _close(loop: asyncio.AbstractEventLoop, thread: threading.Thread, client: Client) -> None:
    """Give up what is still under way, close the connections, end the loop and its thread."""

    async def end() -> None:
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await client.close()
        loop.stop()

    asyncio.run_coroutine_threadsafe(end(), loop)
    if thread is not threading.current_thread():  # the last to forget a stage may be its own loop
        thread.join(timeout=5)
