"""The client's calls about videos, beside ``Visage`` and ``AsyncVisage``.

with Visage("http://127.0.0.1:8000", key="vsg_...") as visage:
    videos = Videos(visage)
    asked = videos.ask("she turns around", identity=["me.jpg"], seconds=2)
    Path("me.mp4").write_bytes(videos.wait(asked["id"]))
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from serving.client import AsyncVisage, Photo, Visage, _Call, _json, _whom

_PATH = "/v1/videos"
_POLL_S = 0.5
Answer = dict[str, Any]
"""As ``/openapi.json`` describes it."""


class Videos:
    """The videos of a key. Every method raises ``Refusal`` as those of ``Visage`` do."""

    def __init__(self, visage: Visage) -> None:
        """Ask through ``visage``."""
        self._send = visage._send

    def ask(
        self,
        prompt: str = "",
        *,
        identity: Sequence[Photo] = (),
        once: str = "",
        **settings: object,
    ) -> Answer:
        """Ask for a video, which is drawn when there is time.

        Args:
            prompt: What to draw.
            identity: Photographs of the one to draw, or an enrolled person's id.
            once: A name of your choice: the same request under the same name is the same video.
            settings: The fields of the API: seconds, size, seed, steps, ...
        """
        return _json(self._send(_ask(prompt, identity, once, settings)))

    def get(self, video: str) -> Answer:
        """Return how a video is."""
        return _json(self._send(_bare("GET", f"{_PATH}/{video}")))

    def all(self) -> Iterator[Answer]:
        """Yield all of them, newest first."""
        path = f"{_PATH}?limit=100"
        while True:
            page = _json(self._send(_bare("GET", path)))
            yield from page["data"]
            if not page["has_more"]:
                return
            path = f"{_PATH}?limit=100&after={page['last_id']}"

    def content(self, video: str) -> bytes:
        """Return a finished video: an MP4 file."""
        return self._send(_bare("GET", f"{_PATH}/{video}/content")).content

    def preview(self, video: str) -> bytes:
        """Return how a video looks while it is drawn: a JPEG.

        Raises:
            Refusal: Also ``no_preview``: there is none, or none yet.
        """
        return self._send(_bare("GET", f"{_PATH}/{video}/preview")).content

    def wait(self, video: str, timeout_s: float = 600.0) -> bytes:
        """Return a video when it is finished.

        Raises:
            Refusal: Also ``no_result``: it failed, or was cancelled.
            TimeoutError: It is not finished in time; it is drawn nevertheless.
        """
        until = time.monotonic() + timeout_s
        while _unfinished(self.get(video)):
            if time.monotonic() > until:
                raise _late(video, timeout_s)
            time.sleep(_POLL_S)
        return self.content(video)

    def delete(self, video: str) -> Answer:
        """Cancel a video, or take a finished one away."""
        return _json(self._send(_bare("DELETE", f"{_PATH}/{video}")))


class AsyncVideos:
    """``Videos`` for asyncio."""

    def __init__(self, visage: AsyncVisage) -> None:
        """Ask through ``visage``."""
        self._send = visage._send

    async def ask(
        self,
        prompt: str = "",
        *,
        identity: Sequence[Photo] = (),
        once: str = "",
        **settings: object,
    ) -> Answer:
        """Ask for a video; see ``Videos.ask``."""
        return _json(await self._send(_ask(prompt, identity, once, settings)))

    async def get(self, video: str) -> Answer:
        """Return how a video is."""
        return _json(await self._send(_bare("GET", f"{_PATH}/{video}")))

    async def all(self) -> AsyncIterator[Answer]:
        """Yield all of them, newest first."""
        path = f"{_PATH}?limit=100"
        while True:
            page = _json(await self._send(_bare("GET", path)))
            for one in page["data"]:
                yield one
            if not page["has_more"]:
                return
            path = f"{_PATH}?limit=100&after={page['last_id']}"

    async def content(self, video: str) -> bytes:
        """Return a finished video: an MP4 file."""
        return (await self._send(_bare("GET", f"{_PATH}/{video}/content"))).content

    async def preview(self, video: str) -> bytes:
        """Return how a video looks while it is drawn; see ``Videos.preview``."""
        return (await self._send(_bare("GET", f"{_PATH}/{video}/preview"))).content

    async def wait(self, video: str, timeout_s: float = 600.0) -> bytes:
        """Return a video when it is finished; see ``Videos.wait``."""
        until = time.monotonic() + timeout_s
        while _unfinished(await self.get(video)):
            if time.monotonic() > until:
                raise _late(video, timeout_s)
            await asyncio.sleep(_POLL_S)
        return await self.content(video)

    async def delete(self, video: str) -> Answer:
        """Cancel a video, or take a finished one away."""
        return _json(await self._send(_bare("DELETE", f"{_PATH}/{video}")))


def _ask(prompt: str, identity: Sequence[Photo], once: str, settings: dict[str, object]) -> _Call:
    person, files = _whom(identity)
    headers = {"idempotency-key": once} if once else {}
    fields = {"prompt": prompt, **person, **settings}
    return _Call(method="POST", path=_PATH, fields=fields, files=files, headers=headers)


def _bare(method: str, path: str) -> _Call:
    return _Call(method=method, path=path, fields={})


def _unfinished(video: Answer) -> bool:
    return video["status"] in ("queued", "in_progress")


def _late(video: str, timeout_s: float) -> TimeoutError:
    return TimeoutError(f"{video} is not finished in {timeout_s:g} s; ask for it again later.")
