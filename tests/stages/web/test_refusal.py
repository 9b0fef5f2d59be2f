"""Whatever goes wrong has one of the names that are known."""

import ast
import socket
from pathlib import Path

import aiohttp
import pytest

from stages.columns import ERRORS
from stages.web import refusal
from stages.web.refusal import Refused, explain, of_status
from stages.web.robots import _NO_ANSWER


def named():
    """Every error that the code under stages/web names."""
    for file in Path(refusal.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            called = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refused"
            if called and isinstance(node.args[0], ast.Constant):
                yield node.args[0].value


def test_no_error_is_named_that_is_not_one():
    found = set(named())
    assert len(found) > 15
    assert found <= set(ERRORS)
    assert set(_NO_ANSWER) <= set(ERRORS)


@pytest.mark.parametrize(
    ("status", "error", "heals"),
    [
        (404, "http_4xx", False), (403, "http_4xx", False), (408, "http_4xx", True),
        (429, "http_4xx", True), (500, "http_5xx", True), (503, "http_5xx", True),
        (204, "http_other", False), (304, "http_other", False), (999, "http_other", False),
    ],
)  # fmt: skip
def test_a_status_says_whether_asking_again_can_help(status, error, heals):
    refused = of_status(status, 7.0)
    assert (refused.error, refused.heals) == (error, heals)
    assert refused.after_s == (7.0 if heals else 0.0)


def dns(number):
    key = aiohttp.client_reqrep.ConnectionKey("h", 80, False, True, None, None, None)
    return aiohttp.ClientConnectorDNSError(key, OSError(number, "no such name"))


@pytest.mark.parametrize(
    ("problem", "error", "heals"),
    [
        (dns(socket.EAI_AGAIN), "dns", True),
        (dns(socket.EAI_NONAME), "dns", False),
        (aiohttp.ConnectionTimeoutError(), "connect", True),
        (aiohttp.ServerDisconnectedError(), "connect", True),
        (ConnectionResetError(), "connect", True),
        (aiohttp.InvalidURL("x"), "bad_url", False),
        (aiohttp.ClientPayloadError("Not enough data"), "truncated", True),
        (aiohttp.ClientPayloadError("what is this"), "bad_http", False),
        (Refused("empty", "no bytes"), "empty", False),
        (ZeroDivisionError(), "stage_failed", False),
    ],
)
def test_what_is_raised_is_named_and_only_what_can_heal_is_tried_again(problem, error, heals):
    refused = explain(problem, 5.0)
    assert (refused.error, refused.heals) == (error, heals)
    assert refused.detail
