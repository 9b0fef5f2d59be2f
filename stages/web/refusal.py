"""Name whatever can go wrong with one URL by one of ``ERRORS``, and say whether it can heal."""

import socket
import ssl

import aiohttp

from stages.web.addresses import ForbiddenAddress


class Refused(Exception):
    """One URL ends here, or at least this attempt.

    It never leaves ``Fetch``, where it becomes the error of one row.

    Args:
        error: One of ``ERRORS``.
        detail: The values behind it, in words.
        heals: Whether another attempt can help.
        after_s: How long the server wants us to wait.
    """

    def __init__(
        self, error: str, detail: str, *, heals: bool = False, after_s: float = 0.0
    ) -> None:
        self.error, self.detail, self.heals, self.after_s = error, detail, heals, after_s
        super().__init__(error, detail)


_HEALING_4XX = (408, 425, 429)
_WORDS_CHARS = 120  # the parser repeats what it cannot read


def of_status(status: int, after_s: float = 0.0) -> Refused:
    """Name an answer that brings no picture."""
    error = {4: "http_4xx", 5: "http_5xx"}.get(status // 100, "http_other")
    detail = f"answered {status}"
    if after_s:
        detail += f" and wants {after_s:g} s of rest"
    heals = error == "http_5xx" or status in _HEALING_4XX
    return Refused(error, detail, heals=heals, after_s=after_s if heals else 0.0)


def explain(problem: Exception, connect_s: float) -> Refused:
    """Name what an attempt raised.

    Args:
        problem: Anything; deadlines excepted, which only their owner can name.
        connect_s: How long a connection was waited for.
    """
    words = str(problem) or type(problem).__name__
    match problem:  # the more special first: many of these are OSErrors, timeouts included
        case Refused():
            return problem
        case ForbiddenAddress():
            return Refused("forbidden_address", words)
        case aiohttp.ClientConnectorDNSError():
            # A resolver out of order heals; a name that nobody knows does not.
            heals = getattr(problem.os_error, "errno", None) == socket.EAI_AGAIN
            detail = f"{problem.host} cannot be resolved: {problem.os_error}"
            return Refused("dns", detail, heals=heals)
        case aiohttp.ConnectionTimeoutError():
            return Refused("connect", f"no connection within {connect_s:g} s", heals=True)
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return Refused("tls", words)
        case aiohttp.InvalidURL():
            return Refused("bad_url", words)
        case aiohttp.ClientResponseError():
            return _of_message(problem.message)
        case aiohttp.ClientPayloadError():
            return _of_body(problem)
        case aiohttp.ClientError() | OSError():
            return Refused("connect", words, heals=True)
        case _:
            return Refused("stage_failed", f"{type(problem).__name__}: {problem}")


def _of_message(message: str) -> Refused:
    """Name what the parser says of status line and headers."""
    words = " ".join(message.split())[:_WORDS_CHARS]
    if "Too many headers" in message or "bytes when reading" in message:
        return Refused("too_many_headers", words)
    return Refused("bad_http", f"the answer is no HTTP: {words}")


def _of_body(problem: aiohttp.ClientPayloadError) -> Refused:
    """Tell a body that breaks off, which can heal, from one that is garbled."""
    words = " ".join(f"{problem} {problem.__cause__ or ''}".split())[:_WORDS_CHARS]
    if "Not enough data" in words or "ConnectionReset" in words:
        return Refused("truncated", "the body broke off before its end", heals=True)
    return Refused("bad_http", f"the body is garbled: {words}")
