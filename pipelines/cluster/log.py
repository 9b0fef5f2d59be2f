"""What a run on a cluster says, read over HTTP while it is said."""

import asyncio
import codecs
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

from infra.errors import VisageError
from pipelines.runs import Seen

ENDED = ("done", "failed", "stopped")
PATIENCE_S = 60.0
"""How long a run that is out of sight is looked for."""
RETRY_S = 0.5
CONNECT_S = 15.0
LATE_S = 0.2
"""How late a node may send what was written to a log."""
QUIET_S = 1.0
"""How long a log may bring nothing before its run is looked at."""


class LostSight(VisageError):
    """The log of a run broke off and could not be had again; the run is not touched by it."""

    exit_code = 5

    def __init__(self, run: str, address: str, why: str) -> None:
        self.run, self.address, self.why = run, address, why
        super().__init__(run, address, why)

    def __str__(self) -> str:
        return (
            f"Lost sight of {self.run}: {self.why}. It goes on if its cluster lives: look again "
            f"with `visage runs {self.run} --address {self.address} --follow`, or give the same "
            "command again once the cluster is back."
        )


class Log:
    """The log of one run.

    While the run is at work its log is followed as any file of a node: Ray's own stream of a job's
    log sleeps between reading and sending, and brings every line up to three seconds late. When the
    run has ended the log is read once more, whole, so that nothing of it is missed.

    Args:
        client: Ray's client of the cluster's jobs.
        address: Of its dashboard.
        run: The run's id.
        look: Looks at the run, which must have started.
    """

    def __init__(
        self,
        client: Any,  # noqa: ANN401 - half-typed
        address: str,
        run: str,
        look: Callable[[], Seen | None],
    ) -> None:
        self.client, self.address, self.run, self.look = client, address, run, look

    def lines(self) -> Iterator[str]:
        """Yield the log line by line, from its beginning to the run's end.

        A stream that breaks is taken up where it broke.

        Raises:
            LostSight: It could not be taken up for a minute.
        """
        shown, lost_at, rest = 0, 0.0, ""
        while True:
            read, why = 0, "its log broke off"
            try:
                seen = self.look()
                if seen is None or seen.state in ENDED:
                    rest += self.remainder(shown)
                    yield from rest.removesuffix("\n").split("\n") if rest else ()
                    return
                for text in self.tail(seen.detail["node"]):
                    fresh = text[max(0, shown - read) :]
                    read += len(text)
                    shown, lost_at = max(shown, read), 0.0
                    *whole, rest = (rest + fresh).split("\n")
                    yield from whole
            except (OSError, RuntimeError, VisageError) as error:
                why = getattr(error, "why", "") or str(error) or why
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > PATIENCE_S:
                raise LostSight(self.run, self.address, why)
            time.sleep(RETRY_S)

    def remainder(self, shown: int) -> str:
        """Return what a run that has ended said after its first ``shown`` characters."""
        answer = self.client._do_request("GET", f"/api/jobs/{self.run}/logs")
        if answer.status_code == 200:
            return str(answer.json()["logs"])[shown:]
        return f"\nThe rest of what {self.run} said cannot be had: its node is gone."

    def tail(self, node: str) -> Iterator[str]:
        """Yield the log from its beginning, in the pieces that it comes in, while the run works.

        Args:
            node: Id of the node that the run's program is on.
        """
        loop, pieces = asyncio.new_event_loop(), self._pieces(node)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        try:
            while True:
                try:
                    piece = loop.run_until_complete(pieces.__anext__())
                except StopAsyncIteration:
                    return
                if piece:
                    yield decoder.decode(piece)
                elif (seen := self.look()) is None or seen.state in ENDED:
                    return
        finally:
            # After Ctrl-C a piece is still awaited, and nothing can be closed before it is not.
            for waiting in asyncio.all_tasks(loop):
                waiting.cancel()
                loop.run_until_complete(asyncio.wait([waiting]))
            loop.run_until_complete(pieces.aclose())
            loop.close()

    async def _pieces(self, node: str) -> AsyncGenerator[bytes, None]:
        """Yield what the log's stream brings, and nothing whenever it is quiet for a while."""
        import aiohttp

        asked = {
            "node_id": node, "filename": f"job-driver-{self.run}.log", "lines": "-1",
            "interval": str(LATE_S),
        }  # fmt: skip
        patience = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        headers = self.client._headers
        try:
            async with (
                aiohttp.ClientSession(headers=headers, timeout=patience) as session,
                session.get(f"{self.address}/api/v0/logs/stream", params=asked) as answer,
            ):
                if answer.status != 200:
                    raise OSError(f"its log cannot be read ({answer.status})")
                while True:
                    try:
                        piece = await asyncio.wait_for(answer.content.readany(), QUIET_S)
                    except TimeoutError:
                        yield b""
                        continue
                    if not piece:
                        return
                    yield piece
        except aiohttp.ClientError as error:
            raise OSError(str(error) or type(error).__name__) from None
