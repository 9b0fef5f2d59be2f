"""Ask a server that speaks OpenAI's chat completions, and outlive what it does.

One question that cannot be answered costs one row. A server that answers nobody stops the job:
what was written stays, and the same command goes on.
"""

import asyncio
import json
import os
import random
import ssl
import time
from collections.abc import Sequence
from typing import Any

import aiohttp

from infra.errors import VisageError
from stages.captions.ask import Question, Reply
from stages.captions.settings import EndpointSettings
from stages.web.retries import Retries, retry_after_s

HOPELESS_QUESTIONS = 32
"""So many questions without an answer in succession: then it is the server."""
_MOST_BYTES = 4 * 2**20
_PROBE_S = 10.0
_DETAIL_CHARS = 300
_MISCONFIGURED = (401, 402, 403, 404, 405)


class EndpointDown(VisageError):
    """A caption server answers nobody, or refuses everybody."""

    def __init__(self, url: str, why: str) -> None:
        self.url, self.why = url, why
        super().__init__(url, why)

    def __str__(self) -> str:
        return (
            f"The caption server {self.url!r} gives no answers: {self.why}. What it has answered "
            "is kept. See that it runs and that --captions.http is right, then give the same "
            "command again: it goes on from there."
        )


class _Failed(Exception):
    """One try that brought no answer."""

    def __init__(self, why: str, *, heals: bool, after_s: float = 0.0) -> None:
        self.why, self.heals, self.after_s = why, heals, after_s
        super().__init__(why)


class HttpCaptioner:
    """Asks a server, some questions at a time.

    Args:
        settings: The server, and every bound.
        max_tokens: Most tokens of one answer.
    """

    def __init__(self, settings: EndpointSettings, max_tokens: int) -> None:
        self.settings, self.max_tokens = settings, max_tokens
        self._base = settings.url.rstrip("/")
        self._rng = random.Random()
        self._unanswered = 0

    def __call__(self, questions: Sequence[Question]) -> list[Reply]:
        """Answer every question.

        Raises:
            EndpointDown: The server cannot be reached, refuses the key or the model, or has
                answered nothing for long.
        """
        return asyncio.run(self._all(questions))

    async def _all(self, questions: Sequence[Question]) -> list[Reply]:
        turns = asyncio.Semaphore(self.settings.concurrency)
        key = os.environ.get(self.settings.key_variable, "")
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=ssl.create_default_context()),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=self.settings.deadline_s, sock_connect=self.settings.connect_s
            ),
        ) as session:
            tasks = [asyncio.ensure_future(self._one(session, turns, q)) for q in questions]
            try:
                replies = list(await asyncio.gather(*tasks))
            except BaseException:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                raise
            await self._check(session, replies)
        return replies

    async def _check(self, session: aiohttp.ClientSession, replies: Sequence[Reply]) -> None:
        """Stop the job if nobody was answered and nobody will be.

        A batch may consist of the one picture at which the server fails; so whether the server
        lives is asked of it before it is said to be down.
        """
        if not replies or not all(reply.error for reply in replies):
            self._unanswered = 0
            return
        self._unanswered += len(replies)
        why = replies[-1].detail
        if self._unanswered >= HOPELESS_QUESTIONS:
            raise EndpointDown(self._base, f"{self._unanswered} questions in succession; {why}")
        try:
            async with asyncio.timeout(_PROBE_S), session.get(f"{self._base}/models") as response:
                lives = response.status < 500
        except (aiohttp.ClientError, OSError, TimeoutError):
            lives = False
        if not lives:
            raise EndpointDown(self._base, why)

    async def _one(
        self, session: aiohttp.ClientSession, turns: asyncio.Semaphore, question: Question
    ) -> Reply:
        """Ask until there is an answer, or no sense in asking on."""
        pictures = [
            {"type": "image_url", "image_url": {"url": frame.data_uri}} for frame in question.frames
        ]
        body: dict[str, Any] = {
            "model": self.settings.model,
            "messages": question.messages(pictures, plain=True),
            "max_tokens": self.max_tokens,
            "temperature": 0.0,
        }
        if self.settings.structured:
            shape = {"name": question.prompt.name, "schema": question.prompt.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": shape}
        retries = Retries(self.settings.attempts, self.settings.budget_s, self._rng)
        began, tries = time.monotonic(), 0
        while True:
            tries += 1
            try:
                # Waiting out a pause must not keep others from asking.
                async with turns:
                    return await self._try(session, body)
            except _Failed as problem:
                spent_s = time.monotonic() - began
                pause_s = retries.pause_s(tries, spent_s, problem.after_s)
                if not problem.heals or pause_s is None:
                    detail = f"{problem.why} (tries: {tries})"[:_DETAIL_CHARS]
                    return Reply(error="caption_endpoint", detail=detail, seconds=spent_s)
            await asyncio.sleep(pause_s)

    async def _try(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> Reply:
        """Ask once."""
        began = time.monotonic()
        try:
            async with session.post(
                f"{self._base}/chat/completions", json=body, allow_redirects=False
            ) as response:
                data = await _read(response)
                if response.status != 200:
                    raise self._refused(response, data)
        except TimeoutError:
            raise _Failed(
                f"no answer within {time.monotonic() - began:.1f} s", heals=True
            ) from None
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as problem:
            why = f"{type(problem).__name__}: {problem}"
            raise _Failed(why, heals=True) from None
        return self._understood(data, time.monotonic() - began)

    def _refused(self, response: aiohttp.ClientResponse, data: bytes) -> Exception:
        """Say what an answer other than 200 means."""
        said = data[:_DETAIL_CHARS].decode("utf-8", "replace").strip()
        if key := os.environ.get(self.settings.key_variable):
            said = said.replace(key, "***")  # some servers say back what they were sent
        why = f"HTTP {response.status}: {said}"
        if response.status in _MISCONFIGURED or 300 <= response.status < 400:
            return EndpointDown(self._base, why)
        heals = response.status in (408, 425, 429) or response.status >= 500
        return _Failed(
            why, heals=heals, after_s=retry_after_s(response.headers.get("Retry-After", ""))
        )

    def _understood(self, data: bytes, seconds: float) -> Reply:
        """Read the envelope of an answer; what is in it is read by others."""
        try:
            held = json.loads(data)
            choice = held["choices"][0]
            text = "".join([choice["message"]["content"] or ""])  # a list is no text
            usage = held.get("usage") or {}
            tokens = [int(usage.get(f"{way}_tokens") or 0) for way in ("prompt", "completion")]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as problem:
            why = f"no chat completion ({type(problem).__name__}: {problem}): {data[:80]!r}"
            raise _Failed(why, heals=True) from None
        return Reply(
            text=text,
            model=str(held.get("model") or self.settings.model),
            input_tokens=tokens[0],
            output_tokens=tokens[1],
            seconds=seconds,
        )


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read a body, if it is of a size that answers have."""
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > _MOST_BYTES:
            raise _Failed(f"more than {_MOST_BYTES} bytes", heals=False)
    return bytes(data)
