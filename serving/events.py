"""Server-sent events: data as it comes, signs of life between, and an end when the client leaves.

The format is that of the HTML standard, section 9.2.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import anyio
from fastapi import Request
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.types import Send

from serving.edges import left, problem, refusal, timed_out

PING_S = 15.0
"""Silence after which a comment keeps proxies from closing the connection."""
GRACE_S = 0.25
"""How long a refusal may take to come as a status; later ones come as an event ``error``."""


class EventStream(StreamingResponse):
    """A response whose generator is closed when the sending ends, however it ends."""

    async def stream_response(self, send: Send) -> None:
        """Send, then see to it that the drawing stops."""
        async with aclosing(self.body_iterator):  # type: ignore[type-var]
            await super().stream_response(send)


async def events(
    request: Request, steps: AsyncGenerator[str, None], timeout_s: float
) -> AsyncGenerator[bytes, None]:
    """Turn JSON texts into events.

    Args:
        request: Its body has been read.
        steps: JSON objects with their event's name under ``type``; closed when the client leaves.
        timeout_s: After which the stream ends with an error.

    Raises:
        Refusal: What ``steps`` raises at once.
    """
    until = asyncio.get_running_loop().time() + timeout_s
    first = asyncio.ensure_future(anext(steps))
    try:
        await asyncio.wait({first}, timeout=GRACE_S)
        if first.done():
            with suppress(StopAsyncIteration):  # nothing to tell
                first.result()
    except BaseException:
        await _stop(first, steps)
        raise
    return _events(request, steps, first, until, timeout_s)


async def _events(
    request: Request,
    steps: AsyncGenerator[str, None],
    step: "asyncio.Future[str]",
    until: float,
    timeout_s: float,
) -> AsyncGenerator[bytes, None]:
    gone = asyncio.ensure_future(left(request))
    clock = asyncio.get_running_loop().time
    try:
        while True:
            while not step.done() and not gone.done() and clock() < until:
                waiting: set[asyncio.Future[Any]] = {step, gone}
                done, _ = await asyncio.wait(
                    waiting,
                    timeout=min(PING_S, until - clock()),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done and clock() < until:
                    yield KEEPALIVE_COMMENT
            if gone.done():
                return
            if not step.done():
                yield _failed(timed_out(timeout_s), request)
                return
            data = step.result()
            told = json.loads(data)
            number = told.get("sequence_number")  # of events that can be sent again
            yield format_sse_event(
                data_str=data, event=told["type"], id=None if number is None else str(number)
            )
            step = asyncio.ensure_future(anext(steps))
    except StopAsyncIteration:
        return
    except Exception as error:
        yield _failed(error, request)
    finally:
        gone.cancel()
        # Starlette, when it is the first to see that the client left, cancels every await.
        with anyio.CancelScope(shield=True):
            await asyncio.gather(gone, return_exceptions=True)
            await _stop(step, steps)


def _failed(error: Exception, request: Request) -> bytes:
    # The status is sent; OpenAI's clients raise what comes under ``error``.
    told = problem(refusal(error), request.state.request_id)
    return format_sse_event(data_str=json.dumps(told), event="error")


async def _stop(step: "asyncio.Future[str]", steps: AsyncGenerator[str, None]) -> None:
    step.cancel()
    await asyncio.gather(step, return_exceptions=True)
    await steps.aclose()
