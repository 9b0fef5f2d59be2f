"""Faces: found, measured, compared."""

from typing import Any

from fastapi import APIRouter, Request

from serving.bodies import read
from serving.door import OF_FACES, OF_PICTURES, Door, body, documented
from serving.edges import answered
from serving.faces import Face, Seen
from serving.schemas import (
    DetectAnswer,
    EmbedAnswer,
    EmbeddedFace,
    FaceAnswer,
    PairAsk,
    PhotoAsk,
    VerifyAnswer,
)

_TINY = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"
)
EXAMPLE = {"image": _TINY}
"""One white pixel, as PNG."""


def faces_routes(door: Door) -> APIRouter:
    """Make the routes."""
    router = APIRouter(prefix="/v1/faces", tags=["faces"], dependencies=[door.allowed("faces")])
    http, faces, metrics = door.recipe.http, door.faces, door.metrics

    @router.post(
        "/detect",
        summary="Find the faces of a photograph",
        responses=documented(*OF_PICTURES, "overloaded"),
        openapi_extra=body(PhotoAsk, EXAMPLE),
    )
    async def detect(request: Request) -> DetectAnswer:
        ask = await read(request, PhotoAsk, http.max_body_bytes)
        seen = await answered(request, faces.detect(ask.image), http.timeout_s)
        metrics.saw("detect", len(seen.faces))
        found = [FaceAnswer(**_facts(face)) for face in seen.faces]
        return DetectAnswer(**_frame(seen), detector=faces.detector, faces=found)

    @router.post(
        "/embed",
        summary="Find the faces of a photograph and tell who they are, as vectors",
        responses=documented(*OF_PICTURES, "overloaded"),
        openapi_extra=body(PhotoAsk, EXAMPLE),
    )
    async def embed(request: Request) -> EmbedAnswer:
        ask = await read(request, PhotoAsk, http.max_body_bytes)
        seen = await answered(request, faces.embed(ask.image), http.timeout_s)
        metrics.saw("embed", len(seen.faces))
        found = [
            EmbeddedFace(**_facts(face), embedding=face.vector.tolist())
            for face in seen.faces
            if face.vector is not None
        ]
        return EmbedAnswer(
            **_frame(seen),
            detector=faces.detector,
            embedder=faces.embedder,
            metric=faces.metric,
            same_person_below=faces.threshold,
            faces=found,
        )

    @router.post(
        "/verify",
        summary="Say whether two photographs show one person",
        responses=documented(*OF_PICTURES, *OF_FACES, "overloaded"),
        openapi_extra=body(PairAsk, {"image_a": _TINY, "image_b": _TINY}),
    )
    async def verify(request: Request) -> VerifyAnswer:
        ask = await read(request, PairAsk, http.max_body_bytes)
        work = faces.verify(ask.image_a, ask.image_b)
        verdict = await answered(request, work, http.timeout_s)
        metrics.saw("verify", 2)
        return VerifyAnswer(
            distance=verdict.distance,
            threshold=verdict.threshold,
            same_person=verdict.same_person,
            embedder=verdict.embedder,
            metric=verdict.metric,
        )

    return router


def _frame(seen: Seen) -> dict[str, int]:
    return {"width_px": seen.width_px, "height_px": seen.height_px}


def _facts(face: Face) -> dict[str, Any]:
    return {
        "box_px": face.box_px, "landmarks_px": face.landmarks_px,
        "score": face.score, "area_share": face.area_share,
    }  # fmt: skip
