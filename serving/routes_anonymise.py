"""Photographs in which everybody is made unrecognisable, or everybody but one."""

import asyncio
import time
from base64 import b64encode

from fastapi import APIRouter, Request

from serving.bodies import read
from serving.door import OF_FACES, OF_PICTURES, OF_RECORDS, Door, body, documented
from serving.edges import answered
from serving.errors import Refusal
from serving.keys import Key
from serving.provenance.credentials import Made
from serving.provenance.schemas import AnonymiseAsk, AnonymisedAnswer
from serving.routes_faces import EXAMPLE
from serving.schemas import Picture
from serving.types import RGB
from serving.uploads import encode
from stages.anonymise import MARGIN


def anonymise_routes(door: Door) -> APIRouter:
    """Make the route."""
    router, may = APIRouter(prefix="/v1/images", tags=["images"]), door.allowed("images")
    http, faces = door.recipe.http, door.faces

    @router.post(
        "/anonymise",
        summary="Hide everybody in a photograph, or everybody but one",
        responses=documented(
            *OF_PICTURES, *OF_FACES, *OF_RECORDS, "different_people", "unknown_person",
            "consent_expired", "embedder_mismatch", "not_anonymised", "overloaded",
            "signer_unavailable",
        ),
        openapi_extra=body(AnonymiseAsk, EXAMPLE),
    )  # fmt: skip
    async def anonymise(request: Request, key: Key = may) -> AnonymisedAnswer:
        ask = await read(request, AnonymiseAsk, http.max_body_bytes)
        return await answered(request, _work(request, key, ask), http.timeout_s)

    async def _work(request: Request, key: Key, ask: AnonymiseAsk) -> AnonymisedAnswer:
        identity = request.state.request_id
        keep = await door.guard.reference(ask.identity, key, identity) if ask.identity else None
        if keep and keep.embedder != faces.embedder:
            words = f"was measured by {keep.embedder}; faces are measured by {faces.embedder} now"
            raise Refusal("embedder_mismatch", f"The person {words}. Enrol them again.")
        done = await faces.anonymise(ask.image, keep, ask.how)
        seen = len(done.distances) + (done.kept >= 0)
        door.metrics.saw("anonymise", seen)
        blob = await asyncio.to_thread(_signed, done.picture, ask, identity)
        height_px, width_px = done.picture.shape[:2]
        return AnonymisedAnswer(
            created=int(time.time()),
            data=[Picture(b64_json=b64encode(blob).decode())],
            output_format=ask.output_format,
            size=f"{width_px}x{height_px}",
            faces=seen,
            hidden=len(done.distances),
            kept=done.kept >= 0,
            distances=[round(apart, 4) for apart in done.distances],
            beyond=round(MARGIN * faces.threshold, 4),
            embedder=faces.embedder,
            metric=faces.metric,
            signed_by=door.provenance.signer,
        )

    def _signed(picture: RGB, ask: AnonymiseAsk, identity: str) -> bytes:
        blob = encode(picture, ask.output_format, ask.output_compression)
        made = Made(model="", request_id=identity)
        return door.provenance.sign_anonymised(blob, f"image/{ask.output_format}", made)

    return router
