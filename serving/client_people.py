"""The client's calls about people, beside ``Visage`` and ``AsyncVisage``.

with Visage("http://127.0.0.1:8000", key="vsg_...") as visage:
    people = People(visage)
    ada = people.enrol(["ada.jpg"], purpose="...", until=in_a_year, evidence="form 7")
    visage.generate(identity=[ada["id"]])
    people.forget(ada["id"])
"""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from typing import Any

from serving.client import AsyncVisage, Photo, Visage, _blob, _Call, _json

_PATH = "/v1/people"
Answer = dict[str, Any]
"""As ``/openapi.json`` describes it."""


def _enrol(photos: Sequence[Photo], consent: Answer) -> _Call:
    files = [("photos", _blob(photo)) for photo in photos]
    return _Call(method="POST", path=_PATH, fields={"consent": json.dumps(consent)}, files=files)


def _renew(person: str, consent: Answer) -> _Call:
    return _Call(method="PATCH", path=f"{_PATH}/{person}", fields={"consent": consent})


def _search(image: Photo, limit: int) -> _Call:
    files = [("image", _blob(image))]
    return _Call(method="POST", path="/v1/faces/search", fields={"limit": limit}, files=files)


def _bare(method: str, path: str) -> _Call:
    return _Call(method=method, path=path, fields={})


def _consent(
    purpose: str, until: datetime, evidence: str, granted_at: datetime | None, subject_name: str
) -> Answer:
    consent = {
        "purpose": purpose, "until": until.isoformat(), "evidence": evidence,
        "subject_name": subject_name,
    }  # fmt: skip
    return consent | ({"granted_at": granted_at.isoformat()} if granted_at else {})


class People:
    """The enrolled of a key. Every method raises ``Refusal`` as those of ``Visage`` do."""

    def __init__(self, visage: Visage) -> None:
        """Ask through ``visage``."""
        self._send = visage._send

    def enrol(
        self,
        photos: Sequence[Photo],
        *,
        purpose: str,
        until: datetime,
        evidence: str,
        granted_at: datetime | None = None,
        subject_name: str = "",
    ) -> Answer:
        """Enrol somebody with their consent; times need a time zone."""
        consent = _consent(purpose, until, evidence, granted_at, subject_name)
        return _json(self._send(_enrol(photos, consent)))

    def get(self, person: str) -> Answer:
        """Return one of them."""
        return _json(self._send(_bare("GET", f"{_PATH}/{person}")))

    def all(self) -> Iterator[Answer]:
        """Yield all of them, oldest first."""
        path = f"{_PATH}?limit=100"
        while True:
            page = _json(self._send(_bare("GET", path)))
            yield from page["data"]
            if not page["has_more"]:
                return
            path = f"{_PATH}?limit=100&after={page['last_id']}"

    def renew(
        self,
        person: str,
        *,
        purpose: str,
        until: datetime,
        evidence: str,
        granted_at: datetime | None = None,
        subject_name: str = "",
    ) -> Answer:
        """Replace somebody's consent; an empty name stays as it is."""
        consent = _consent(purpose, until, evidence, granted_at, subject_name)
        return _json(self._send(_renew(person, consent)))

    def forget(self, person: str) -> Answer:
        """Delete all that is kept of somebody."""
        return _json(self._send(_bare("DELETE", f"{_PATH}/{person}")))

    def search(self, image: Photo, limit: int = 10) -> Answer:
        """Find who looks most like the person in a photograph."""
        return _json(self._send(_search(image, limit)))


class AsyncPeople:
    """``People`` for asyncio."""

    def __init__(self, visage: AsyncVisage) -> None:
        """Ask through ``visage``."""
        self._send = visage._send

    async def enrol(
        self,
        photos: Sequence[Photo],
        *,
        purpose: str,
        until: datetime,
        evidence: str,
        granted_at: datetime | None = None,
        subject_name: str = "",
    ) -> Answer:
        """Enrol somebody with their consent; times need a time zone."""
        consent = _consent(purpose, until, evidence, granted_at, subject_name)
        return _json(await self._send(_enrol(photos, consent)))

    async def get(self, person: str) -> Answer:
        """Return one of them."""
        return _json(await self._send(_bare("GET", f"{_PATH}/{person}")))

    async def all(self) -> AsyncIterator[Answer]:
        """Yield all of them, oldest first."""
        path = f"{_PATH}?limit=100"
        while True:
            page = _json(await self._send(_bare("GET", path)))
            for person in page["data"]:
                yield person
            if not page["has_more"]:
                return
            path = f"{_PATH}?limit=100&after={page['last_id']}"

    async def renew(
        self,
        person: str,
        *,
        purpose: str,
        until: datetime,
        evidence: str,
        granted_at: datetime | None = None,
        subject_name: str = "",
    ) -> Answer:
        """Replace somebody's consent; an empty name stays as it is."""
        consent = _consent(purpose, until, evidence, granted_at, subject_name)
        return _json(await self._send(_renew(person, consent)))

    async def forget(self, person: str) -> Answer:
        """Delete all that is kept of somebody."""
        return _json(await self._send(_bare("DELETE", f"{_PATH}/{person}")))

    async def search(self, image: Photo, limit: int = 10) -> Answer:
        """Find who looks most like the person in a photograph."""
        return _json(await self._send(_search(image, limit)))
