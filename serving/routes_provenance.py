"""Where a picture is from: its credential, its mark, a verdict."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TypeVar

from fastapi import APIRouter, Request

from serving.bodies import read
from serving.database import asked
from serving.door import OF_PICTURES, Door, body, documented
from serving.edges import answered
from serving.errors import Refusal
from serving.keys import Key
from serving.provenance.fingerprints import Issued
from serving.provenance.schemas import (
    CredentialAnswer,
    IssuedAnswer,
    MadeAnswer,
    MarkAnswer,
    ProvenanceAnswer,
)
from serving.provenance.stamp import Findings
from serving.provenance.verdicts import SENTENCES
from serving.provenance.watermark import Watermark
from serving.routes_faces import EXAMPLE
from serving.schemas import PhotoAsk

T = TypeVar("T")

AT_ONCE = 2
MOST_WAITING = 16
"""Pictures that may be looked at or wait; a mark takes some tenths of a second to look for."""


def provenance_routes(door: Door) -> APIRouter:
    """Make the route."""
    router, may = APIRouter(prefix="/v1", tags=["provenance"]), door.allowed("images")
    http, desk = door.recipe.http, _Desk()

    @router.post(
        "/provenance",
        summary="Say where a picture is from",
        responses=documented(*OF_PICTURES, "overloaded", "records_unavailable"),
        openapi_extra=body(PhotoAsk, EXAMPLE),
    )
    async def provenance(request: Request, key: Key = may) -> ProvenanceAnswer:
        ask = await read(request, PhotoAsk, http.max_body_bytes)
        work = desk.do(lambda: door.provenance.inspect(ask.image, http.max_pixels))
        found = await answered(request, work, http.timeout_s)
        issued = await asked(lambda: door.provenance.issued(found.reading))
        return _answer(found, issued, door.provenance.watermark, key)

    return router


class _Desk:
    """Threads of its own, so that who asks here keeps nobody else waiting."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(min(AT_ONCE, os.cpu_count() or 1), "provenance")
        self._busy = 0

    async def do(self, work: Callable[[], T]) -> T:
        if self._busy >= MOST_WAITING:
            raise Refusal("overloaded", "Too many pictures wait here; ask again.", retry_after_s=1)
        self._busy += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._busy -= 1


def _answer(
    found: Findings, issued: Issued | None, mark: Watermark | None, key: Key
) -> ProvenanceAnswer:
    credential, told = found.credential, None
    if issued and ("admin" in key.scopes or issued.key_id == key.id):
        told = IssuedAnswer(**{**asdict(issued), "issued": int(issued.issued)})
    return ProvenanceAnswer(
        verdict=found.verdict,
        sentence=SENTENCES[found.verdict],
        credential=CredentialAnswer(
            state=credential.state,
            signed_by=credential.signed_by,
            problems=list(credential.problems),
            made=MadeAnswer(**asdict(credential.made)) if credential.made else None,
        ),
        watermark=MarkAnswer(
            found=found.reading.payload is not None,
            id=found.mark,
            confidence_sigma=found.reading.confidence_sigma,
            method=mark.method if mark else "",
            strength="none" if mark is None else "strong" if mark.strong else "weak",
            large_enough=found.markable,
            known=issued is not None,
            issued=told,
        ),
    )
