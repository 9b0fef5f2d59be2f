"""What every request passes before a route sees it, and every answer before it leaves.

Headers that have no meaning here do not come in: Ray Serve lets clients choose models, deadlines
and replicas by header, and ours do not. The body is counted while it arrives. Whatever goes wrong,
in a route or before it, is answered with the one envelope, and never with a traceback.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import RETRYABLE, Refusal
from serving.metrics import Metrics
from serving.recipes import HttpSettings

T = TypeVar("T")

logger = logging.getLogger(__name__)

HEADERS_IN = frozenset(
    b"accept accept-encoding authorization connection content-encoding content-length content-type "
    b"expect host idempotency-key last-event-id origin range transfer-encoding user-agent "
    b"x-request-id".split()
)
"""The request headers that are let in."""
_ONCE = (b"authorization", b"content-length", b"content-type", b"host", b"transfer-encoding")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
_GONE = 499  # as nginx counts clients that left; never sent


class Edges:
    """ASGI middleware around all routes."""

    def __init__(
        self, app: ASGIApp, *, settings: HttpSettings, metrics: Metrics, numbered: bool = False
    ) -> None:
        """Stand around an application.

        Args:
            app: What answers.
            settings: Its bounds.
            metrics: What is counted.
            numbered: Whether what stands in front writes a request's number on its answer.
        """
        self._app, self._settings, self._metrics = app, settings, metrics
        self._numbered = numbered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, and its answer out."""
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        sent = Headers(scope=scope)
        scope = {**scope, "headers": [(k, v) for k, v in scope["headers"] if k in HEADERS_IN]}
        given = sent.get("x-request-id", "")
        identity = _identity(given)
        scope["state"] = {**scope.get("state", {}), "request_id": identity}
        body = _Body(receive, self._settings, began, empty=_bodiless(scope["headers"]))
        answer = _Answer(send, "" if self._numbered and identity == given else identity, body)
        self._metrics.opened(1)
        try:
            _check_headers(scope["headers"], self._settings.max_body_bytes)
            await self._app(scope, body, answer)
        except ClientDisconnect:
            answer.status = answer.status or _GONE
        except Exception as error:
            if answer.status:  # too late for another answer; the server closes the connection
                raise
            await envelope(scope, refusal(error), self._metrics)(scope, body, answer)
        finally:
            self._metrics.opened(-1)
            # Cancelled: the client left and the server took note of it first.
            status = answer.status or _GONE
            route = getattr(scope.get("route"), "path", "unmatched")
            seconds = time.monotonic() - began
            self._metrics.answered(route, status, seconds)
            logger.info("%s %s %d %.3f s %s", scope["method"], route, status, seconds, identity)


class _Body:
    """The body as it arrives, within its bounds of size and time."""

    def __init__(
        self, receive: Receive, settings: HttpSettings, began: float, *, empty: bool
    ) -> None:
        self._receive, self._most = receive, settings.max_body_bytes
        left_s = began + settings.timeout_s - time.monotonic()
        self._until = asyncio.get_running_loop().time() + left_s
        self._bytes, self.whole = 0, empty

    async def __call__(self) -> Message:
        if self.whole:
            return await self._receive()  # the client's leaving is all that can come
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise Refusal("timed_out", "The body did not arrive in time.") from None
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._most:
            raise _too_large(self._most)
        self.whole = not message.get("more_body", False)
        return message


class _Answer:
    """The answer on its way out: what all answers carry."""

    def __init__(self, send: Send, identity: str, body: _Body) -> None:
        self._send, self._identity, self._body = send, identity, body
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            if self._identity:
                headers["x-request-id"] = self._identity
            headers["x-content-type-options"] = "nosniff"
            headers["cache-control"] = "no-store"
            if self.status >= 400 and not self._body.whole:
                headers["connection"] = "close"  # rather than read what nobody wants
        await self._send(message)


def envelope(scope: Scope, no: Refusal, metrics: Metrics) -> JSONResponse:
    """Return a refusal as an answer."""
    metrics.refused(no.code)
    retry = no.code in RETRYABLE
    # OpenAI's clients would ask again after any 408, 429 or 500.
    headers = {"x-should-retry": "true" if retry else "false"}
    if retry:
        headers["retry-after"] = str(max(1, no.retry_after_s))
    if no.status == 401:
        headers["www-authenticate"] = "Bearer"
    if "allow" in no.details:
        headers["allow"] = no.details["allow"]
    return JSONResponse(problem(no, scope["state"]["request_id"]), no.status, headers)


def problem(no: Refusal, identity: str) -> dict[str, Any]:
    """Return the envelope's content."""
    error = {"code": no.code, "message": no.message, "details": no.details}
    return {"error": error, "request_id": identity}


def refusal(error: Exception) -> Refusal:
    """Say any error as a refusal; what only we can mend goes to the log, and nowhere else."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, HTTPException):
        if error.status_code == 404:
            return Refusal("not_found", "There is nothing at this path.")
        if error.status_code == 405:
            takes = (error.headers or {}).get("Allow", "")
            words = f"This path takes {takes}." if takes else "This path does not take this method."
            return Refusal("method_not_allowed", words, {"allow": takes} if takes else None)
        return Refusal("bad_request", f"The request cannot be read: {error.detail}.")
    logger.error("unforeseen", exc_info=error)
    return Refusal("internal", "Something went wrong here; the log has it under the request id.")


async def refuse(_: Request, error: Exception) -> Response:
    """Handle what routes raise by letting ``Edges`` answer: one place for all."""
    raise error


async def answered(request: Request, work: Awaitable[T], timeout_s: float) -> T:
    """Do the work of a request for as long as its client is there.

    Raises:
        ClientDisconnect: The client left; the work was cancelled.
        Refusal: ``timed_out``.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(left(request))
    try:
        waiting = {task, gone}
        await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ClientDisconnect
        raise timed_out(timeout_s)
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def timed_out(timeout_s: float) -> Refusal:
    """Say that the work took too long."""
    return Refusal("timed_out", f"It was not done in {timeout_s:g} s, and was stopped.")


async def left(request: Request) -> None:
    """Return when the client has left; its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _identity(sent: str) -> str:
    return sent if _REQUEST_ID.fullmatch(sent) else secrets.token_hex(16)


def _check_headers(headers: list[tuple[bytes, bytes]], max_bytes: int) -> None:
    """Refuse what two servers might read in two ways, and bodies that are too large from afar."""
    names = [name for name, _ in headers]
    for name in _ONCE:
        if names.count(name) > 1:
            raise Refusal("bad_request", f"The header {name.decode()} was sent twice.")
    held = dict(headers)
    if b"content-length" in held and b"transfer-encoding" in held:
        raise Refusal("bad_request", "Send Content-Length or Transfer-Encoding, not both.")
    if held.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refusal("unsupported_media_type", "Send the body as it is, not compressed.")
    length = held.get(b"content-length", b"0")
    if not length.isdigit():
        raise Refusal("bad_request", "Content-Length is no number.")
    if len(length) > 18 or int(length) > max_bytes:
        raise _too_large(max_bytes)


def _bodiless(headers: list[tuple[bytes, bytes]]) -> bool:
    held = dict(headers)
    return b"transfer-encoding" not in held and held.get(b"content-length", b"0") == b"0"


def _too_large(max_bytes: int) -> Refusal:
    words = f"The body is larger than the {max_bytes} bytes that are allowed."
    return Refusal("body_too_large", words, {"max_body_bytes": max_bytes})
