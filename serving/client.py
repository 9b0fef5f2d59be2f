"""A client of the served models, sync and async; over httpx2.

with Visage("http://127.0.0.1:8000", key="vsg_...") as visage:
    drawn = visage.generate(identity=["me.jpg"], seed=7)
    Path("me.png").write_bytes(drawn.pictures[0])
"""

import asyncio
import logging
import time
from base64 import b64decode
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx2

from serving.errors import RETRYABLE, STATUS, Refusal
from serving.sent import PERSON_ID

logger = logging.getLogger(__name__)

Photo = bytes | str | Path
"""A file's bytes, or where it is; as ``identity`` also an enrolled person's id."""
RETRIES = 3
LONGEST_WAIT_S = 30.0
_TIMEOUT_S = 330.0  # a little longer than a server takes by default to give up


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """What was drawn."""

    pictures: tuple[bytes, ...]
    """Files, in the format that was asked for."""
    seeds: tuple[int, ...]
    model: str
    request_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """One request, and nothing of how it is sent."""

    method: str
    path: str
    fields: Mapping[str, Any]
    files: Sequence[tuple[str, bytes]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """Return it as httpx2 takes it."""
        sent = {"method": self.method, "url": self.path, "headers": dict(self.headers)}
        if self.method in ("GET", "DELETE"):
            return sent
        texts = {name: _text(value) for name, value in self.fields.items() if value is not None}
        # A form without files would be sent in another encoding.
        files = [(name, ("file", blob)) for name, blob in self.files]
        if not files:
            return {**sent, "json": _plain(self.fields)}
        return {**sent, "data": texts, "files": files}


class _Calls:
    """Every call that there is."""

    @staticmethod
    def generate(prompt: str, identity: Sequence[Photo], settings: Mapping[str, Any]) -> _Call:
        person, files = _whom(identity)
        fields = {"prompt": prompt, **person, **settings}
        return _Call(method="POST", path="/v1/images/generations", fields=fields, files=files)

    @staticmethod
    def edit(
        image: Photo,
        mask: Photo | None,
        prompt: str,
        identity: Sequence[Photo],
        settings: Mapping[str, Any],
    ) -> _Call:
        person, files = _whom(identity)
        files.append(("image", _blob(image)))
        if mask is not None:
            files.append(("mask", _blob(mask)))
        fields = {"prompt": prompt, **person, **settings}
        return _Call(method="POST", path="/v1/images/edits", fields=fields, files=files)

    @staticmethod
    def faces(what: str, **photos: Photo) -> _Call:
        files = [(name, _blob(photo)) for name, photo in photos.items()]
        return _Call(method="POST", path=f"/v1/faces/{what}", fields={}, files=files)

    @staticmethod
    def get(path: str) -> _Call:
        return _Call(method="GET", path=path, fields={})


class Visage:
    """Talks to a deployment.

    Every method raises ``Refusal`` with the server's code, message and details. Refusals that may
    pass are waited out as long as the server says, ``RETRIES`` times and ``LONGEST_WAIT_S`` each
    at most.
    """

    def __init__(self, url: str, key: str = "", timeout_s: float = _TIMEOUT_S) -> None:
        """Open connections to ``url`` as they are needed."""
        self._http = httpx2.Client(base_url=url, headers=_headers(key), timeout=timeout_s)

    def generate(
        self, prompt: str = "", *, identity: Sequence[Photo] = (), **settings: object
    ) -> Pictures:
        """Draw pictures; ``settings`` are the fields of the API: n, size, seed, adapter, ..."""
        return _pictures(self._send(_Calls.generate(prompt, identity, settings)))

    def edit(
        self,
        image: Photo,
        *,
        mask: Photo | None = None,
        prompt: str = "",
        identity: Sequence[Photo] = (),
        **settings: object,
    ) -> Pictures:
        """Draw pictures that start from one."""
        return _pictures(self._send(_Calls.edit(image, mask, prompt, identity, settings)))

    def detect(self, image: Photo) -> dict[str, Any]:
        """Find the faces of a photograph."""
        return _json(self._send(_Calls.faces("detect", image=image)))

    def embed(self, image: Photo) -> dict[str, Any]:
        """Find the faces of a photograph, with their vectors."""
        return _json(self._send(_Calls.faces("embed", image=image)))

    def verify(self, image_a: Photo, image_b: Photo) -> dict[str, Any]:
        """Compare two photographs."""
        return _json(self._send(_Calls.faces("verify", image_a=image_a, image_b=image_b)))

    def models(self) -> list[str]:
        """Name what is served."""
        return [str(m["id"]) for m in _json(self._send(_Calls.get("/v1/models")))["data"]]

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, call: _Call) -> httpx2.Response:
        tries = _tries()
        next(tries)
        while True:
            response = self._http.request(**call.arguments())
            wait_s = tries.send(response)
            if wait_s is None:
                return response
            time.sleep(wait_s)


class AsyncVisage:
    """``Visage`` for asyncio."""

    def __init__(self, url: str, key: str = "", timeout_s: float = _TIMEOUT_S) -> None:
        """Open connections to ``url`` as they are needed."""
        self._http = httpx2.AsyncClient(base_url=url, headers=_headers(key), timeout=timeout_s)

    async def generate(
        self, prompt: str = "", *, identity: Sequence[Photo] = (), **settings: object
    ) -> Pictures:
        """Draw pictures; ``settings`` are the fields of the API: n, size, seed, adapter, ..."""
        return _pictures(await self._send(_Calls.generate(prompt, identity, settings)))

    async def edit(
        self,
        image: Photo,
        *,
        mask: Photo | None = None,
        prompt: str = "",
        identity: Sequence[Photo] = (),
        **settings: object,
    ) -> Pictures:
        """Draw pictures that start from one."""
        return _pictures(await self._send(_Calls.edit(image, mask, prompt, identity, settings)))

    async def detect(self, image: Photo) -> dict[str, Any]:
        """Find the faces of a photograph."""
        return _json(await self._send(_Calls.faces("detect", image=image)))

    async def embed(self, image: Photo) -> dict[str, Any]:
        """Find the faces of a photograph, with their vectors."""
        return _json(await self._send(_Calls.faces("embed", image=image)))

    async def verify(self, image_a: Photo, image_b: Photo) -> dict[str, Any]:
        """Compare two photographs."""
        return _json(await self._send(_Calls.faces("verify", image_a=image_a, image_b=image_b)))

    async def models(self) -> list[str]:
        """Name what is served."""
        return [str(m["id"]) for m in _json(await self._send(_Calls.get("/v1/models")))["data"]]

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _send(self, call: _Call) -> httpx2.Response:
        tries = _tries()
        next(tries)
        while True:
            response = await self._http.request(**call.arguments())
            wait_s = tries.send(response)
            if wait_s is None:
                return response
            await asyncio.sleep(wait_s)


def _tries() -> Generator[float | None, httpx2.Response, None]:
    """Judge responses: yield None for one to keep, else the seconds to wait before the next try.

    Raises:
        Refusal: The response is one that another try does not mend, or it was the last try.
    """
    response = yield None
    for _ in range(RETRIES):
        refusal = _refusal(response)
        if refusal is None:
            break
        if refusal.code not in RETRYABLE or refusal.retry_after_s > LONGEST_WAIT_S:
            raise refusal
        logger.warning("asking again in %d s: %s", refusal.retry_after_s, refusal)
        response = yield float(refusal.retry_after_s)
    if refusal := _refusal(response):
        raise refusal
    yield None


def _refusal(response: httpx2.Response) -> Refusal | None:
    if response.is_success:
        return None
    try:
        error = response.json()["error"]
        code, message, details = error["code"], error["message"], error["details"]
    except (ValueError, KeyError, TypeError):
        # A proxy in between, not a deployment.
        code = "overloaded" if response.status_code == 429 else "internal"
        message, details = f"HTTP {response.status_code} from {response.url}", {}
    after = response.headers.get("retry-after", "")
    wait_s = int(after) if after.isdigit() else 1
    return Refusal(code if code in STATUS else "internal", message, details, wait_s)


def _pictures(response: httpx2.Response) -> Pictures:
    answer = _json(response)
    return Pictures(
        pictures=tuple(b64decode(one["b64_json"]) for one in answer["data"]),
        seeds=tuple(answer["visage"]["seeds"]),
        model=answer["visage"]["model"],
        request_id=response.headers["x-request-id"],
    )


def _json(response: httpx2.Response) -> dict[str, Any]:
    answer: dict[str, Any] = response.json()
    return answer


def _headers(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


def _whom(identity: Sequence[Photo]) -> tuple[dict[str, str], list[tuple[str, bytes]]]:
    """Tell the id of a person, as a field, from photographs, as files."""
    people = [one for one in identity if isinstance(one, str) and PERSON_ID.fullmatch(one)]
    files = [("identity", _blob(photo)) for photo in identity if photo not in people]
    if len(people) > 1:
        raise Refusal("invalid_value", "identity: give the id of one enrolled person.")
    return {"identity": people[0]} if people else {}, files


def _blob(photo: Photo) -> bytes:
    return photo if isinstance(photo, bytes) else Path(photo).read_bytes()


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
