"""The quickstart's small web: every page of `pages`, served on 127.0.0.1 only."""

import asyncio
import csv
import io
import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from pipelines.quickstart.pages import PERSON, ROWS_FROM_ELSEWHERE, pages

_DRIP_S = 0.1
_PIECES = 1000  # endless for anyone with a deadline or a cap


def bound(*wanted: int) -> socket.socket:
    """Listen at the first of some ports of 127.0.0.1 that is free, or any free one; 0 is none."""
    for port in (*filter(None, wanted), 0):
        held = socket.socket()
        try:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("127.0.0.1", port))
            held.listen()  # with SO_REUSEADDR only who listens keeps others out
        except OSError:
            held.close()
        else:
            return held
    raise AssertionError("the system has a free port")


def free_port(*wanted: int) -> int:
    """Return the port that ``bound`` would bind, for another process to listen at."""
    with bound(*wanted) as held:
        return int(held.getsockname()[1])


class SampleWeb:
    """Serve the pages on 127.0.0.1, in a thread of its own, for as long as the ``with`` lasts.

    Args:
        wanted: Ports to listen at, the first that is free; if none is, any. The same port gives
            the same URLs again, and so nothing to do twice.
    """

    def __init__(self, *wanted: int) -> None:
        # Held from here on: while the pages are drawn nobody else can take it.
        self._socket = bound(*wanted)
        self.port = int(self._socket.getsockname()[1])
        self.pages = {page.path: page for page in pages()}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="web", daemon=True)

    @property
    def url(self) -> str:
        """The address before every path."""
        return f"http://127.0.0.1:{self.port}"

    def write_table(self, path: Path) -> int:
        """Write a table as LAION has it, and who is in which picture; count its rows."""
        rows = [
            [
                self.url + page.path,
                page.caption,
                *page.size_px,
                page.license,
                PERSON.get(page.path, ""),
            ]
            for page in self.pages.values()
            if page.listed
        ]
        first = rows[0]
        rows += [[page.path, page.caption, *page.size_px, "", ""] for page in ROWS_FROM_ELSEWHERE]
        rows.append([f"HTTP://127.0.0.1:{self.port}/./portrait.jpg#top", *first[1:]])
        table = io.StringIO()
        columns = ["URL", "TEXT", "WIDTH", "HEIGHT", "LICENSE", "label"]
        csv.writer(table).writerows([columns, *rows])
        # Touched only when it changes: a run knows its source by the time of its last change.
        if not path.exists() or path.read_bytes() != table.getvalue().encode():
            path.write_bytes(table.getvalue().encode())
        return len(rows)

    def __enter__(self) -> Self:
        self._thread.start()
        self._runner = asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.SockSite(runner, self._socket).start()
        return runner

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        page = self.pages.get(request.path)
        if page is None:
            return web.Response(status=404)
        if page.manner == "whole":
            headers = {"Location": page.location} if page.location else {}
            return web.Response(body=page.body, status=page.status, headers=headers)
        piece, pause_s = (b"\xff", _DRIP_S) if page.manner == "drip" else (bytes(2**16), 0.0)
        answer = web.StreamResponse()
        await answer.prepare(request)
        with suppress(ConnectionError):  # whoever asked has had enough
            await answer.write(page.body)
            for _ in range(_PIECES):
                await answer.write(piece)
                await asyncio.sleep(pause_s)
        return answer
