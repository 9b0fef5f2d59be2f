"""The client's calls about where pictures are from, and to make people in them unrecognisable.

with Visage("http://127.0.0.1:8000", key="vsg_...") as visage:
    provenance = Provenance(visage)
    print(provenance.inspect("found.jpg")["sentence"])
    Path("hidden.jpg").write_bytes(provenance.anonymise("party.jpg", keep=["me.jpg"]).picture)
"""

from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from serving.client import AsyncVisage, Photo, Visage, _blob, _Call, _json, _whom


@dataclass(frozen=True, kw_only=True, slots=True)
class Hidden:
    """A photograph in which people are hidden."""

    picture: bytes
    """A file, in the format that was asked for."""
    told: dict[str, Any]
    """How many faces were found and hidden, how far each is from what it was, ..."""


class Provenance:
    """Every method raises ``Refusal`` as those of ``Visage`` do."""

    def __init__(self, visage: Visage) -> None:
        """Ask through ``visage``."""
        self._send = visage._send

    def inspect(self, image: Photo) -> dict[str, Any]:
        """Say where a picture is from: verdict, credential, watermark."""
        return _json(self._send(_inspect(image)))

    def anonymise(self, image: Photo, *, keep: Sequence[Photo] = (), **settings: object) -> Hidden:
        """Hide everybody but ``keep``; ``settings`` are the API's: how, output_format, ..."""
        return _hidden(self._send(_anonymise(image, keep, settings)))


class AsyncProvenance:
    """``Provenance`` for asyncio."""

    def __init__(self, visage: AsyncVisage) -> None:
        """Ask through ``visage``."""
        self._send = visage._send

    async def inspect(self, image: Photo) -> dict[str, Any]:
        """Say where a picture is from: verdict, credential, watermark."""
        return _json(await self._send(_inspect(image)))

    async def anonymise(
        self, image: Photo, *, keep: Sequence[Photo] = (), **settings: object
    ) -> Hidden:
        """Hide everybody but ``keep``; ``settings`` are the API's: how, output_format, ..."""
        return _hidden(await self._send(_anonymise(image, keep, settings)))


def _inspect(image: Photo) -> _Call:
    files = [("image", _blob(image))]
    return _Call(method="POST", path="/v1/provenance", fields={}, files=files)


def _anonymise(image: Photo, keep: Sequence[Photo], settings: dict[str, object]) -> _Call:
    person, files = _whom(keep)
    files.append(("image", _blob(image)))
    fields = {**person, **settings}
    return _Call(method="POST", path="/v1/images/anonymise", fields=fields, files=files)


def _hidden(response: httpx2.Response) -> Hidden:
    told = _json(response)
    (picture,) = told.pop("data")
    return Hidden(picture=b64decode(picture["b64_json"]), told=told)
