"""Videos: asked for, followed, fetched, cancelled; OpenAI's videos API."""

import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

from serving.bodies import read
from serving.database import asked
from serving.door import OF_FACES, OF_PICTURES, OF_RECORDS, Door, body, documented
from serving.edges import answered
from serving.errors import Refusal
from serving.events import EventStream, events
from serving.jobs.files import VIDEO_ID
from serving.jobs.limits import checked, invalid
from serving.jobs.records import Job
from serving.jobs.schemas import (
    DeletedAnswer,
    VideoAnswer,
    VideoAsk,
    VideoEvent,
    VideoProblem,
    VideosAnswer,
)
from serving.jobs.table import Jobs, fingerprint, unknown
from serving.keys import Key
from serving.limits import NO_FACE
from serving.mp4 import MIME

MOST_LISTED = 100
FOLLOW_S = 0.5
"""How often it is looked whether something has happened to a job that is followed."""
_KEY = re.compile(r"[!-~]{1,255}")
# Declared here and read from requests: FastAPI's own parameters bring its own errors along.
_NAME = {"name": "video", "in": "path", "required": True, "schema": {"type": "string"}}
_ONCE = {
    "name": "Idempotency-Key", "in": "header",
    "description": "Of your choice, 1 to 255 printable characters. The same request under the same "
    "key is the same job, however often it is sent.",
    "schema": {"type": "string", "pattern": f"^{_KEY.pattern}$"},
}  # fmt: skip
_BEHIND = {
    "name": "Last-Event-ID", "in": "header",
    "description": "Number of the last event that was seen; those behind it are sent.",
    "schema": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
}  # fmt: skip
_PAGE = [
    {"name": "limit", "in": "query", "description": f"1 to {MOST_LISTED}; absent: 20.",
     "schema": {"type": "integer", "minimum": 1, "maximum": MOST_LISTED}},
    {"name": "after", "in": "query", "description": "`last_id` of the page before.",
     "schema": {"type": "string"}},
    {"name": "order", "in": "query", "description": "By time; absent: desc.",
     "schema": {"type": "string", "enum": ["asc", "desc"]}},
]  # fmt: skip
_FILE = {"type": "string"}
_EXAMPLE = {"prompt": "she turns to the camera", "seconds": 2, "seed": 7}


def videos_routes(door: Door) -> APIRouter:
    """Make the routes."""
    router, may = APIRouter(prefix="/v1/videos", tags=["videos"]), door.allowed("images")
    http, jobs = door.recipe.http, door.videos

    @router.post(
        "",
        summary="Ask for a video, of a person if photographs are given",
        responses=documented(
            *OF_PICTURES, *OF_FACES, *OF_RECORDS, "different_people", "embedder_mismatch",
            "prompt_not_supported", "identity_not_supported", "unknown_model", "unknown_person",
            "consent_expired", "quota_exceeded", "overloaded", "idempotency_conflict",
        ),
        openapi_extra={"parameters": [_ONCE], **body(VideoAsk, _EXAMPLE)},
    )  # fmt: skip
    async def create(request: Request, key: Key = may) -> VideoAnswer:
        ask = await read(request, VideoAsk, http.max_body_bytes)
        await asked(jobs.sweep)
        return _told(await answered(request, _asked_for(door, request, key, ask), http.timeout_s))

    @router.get(
        "",
        summary="List the videos of this key",
        responses=documented("invalid_value", "unknown_video", "records_unavailable"),
        openapi_extra={"parameters": _PAGE},
    )
    async def listed(request: Request, key: Key = may) -> VideosAnswer:
        limit = request.query_params.get("limit", "20")
        order = request.query_params.get("order", "desc")
        many = int(limit) if limit.isascii() and limit.isdigit() and len(limit) < 4 else 0
        if not 1 <= many <= MOST_LISTED:
            raise invalid("limit", limit, f"give 1 to {MOST_LISTED}")
        if order not in ("asc", "desc"):
            raise invalid("order", order, "give asc or desc")
        after = request.query_params.get("after", "")
        after = _identity(after) if after else ""
        page = partial(jobs.list, key.id, many + 1, after, newest_first=order == "desc")
        found = await asked(page)
        data = [_told(job) for job in found[:many]]
        return VideosAnswer(
            data=data,
            has_more=len(found) > many,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
        )

    @router.get(
        "/{video}",
        summary="How a video is",
        responses=documented("unknown_video", "records_unavailable"),
        openapi_extra={"parameters": [_NAME]},
    )
    async def video(request: Request, key: Key = may) -> VideoAnswer:
        return _told(await _found(jobs, request, key))

    @router.get(
        "/{video}/content",
        summary="The video itself",
        response_class=FileResponse,
        responses={
            **documented(
                "unknown_video", "not_finished", "no_result", "video_expired",
                "records_unavailable",
            ),
            200: {"description": "MP4.", "content": {MIME: {"schema": _FILE}}},
        },
        openapi_extra={"parameters": [_NAME]},
    )  # fmt: skip
    async def content(request: Request, key: Key = may) -> FileResponse:
        job = await _found(jobs, request, key)
        path = jobs.files.path(job, await asked(partial(jobs.result, job)))
        return FileResponse(path, media_type=MIME, filename=f"{job.id}.mp4")

    @router.get(
        "/{video}/preview",
        summary="How the frame in the middle looks while it is drawn",
        response_class=Response,
        responses={
            **documented("unknown_video", "no_preview", "records_unavailable"),
            200: {"description": "JPEG.", "content": {"image/jpeg": {"schema": _FILE}}},
        },
        openapi_extra={"parameters": [_NAME]},
    )
    async def preview(request: Request, key: Key = may) -> Response:
        job = await _found(jobs, request, key)
        shown = await asyncio.to_thread(jobs.files.shown, job) if job.alive else None
        if shown is None:
            words = f"{job.id} is {job.status}: there is nothing, or nothing yet, to be shown of it"
            raise Refusal("no_preview", f"{words} while it is drawn.", {"status": job.status})
        return Response(shown, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    @router.delete(
        "/{video}",
        summary="Cancel a video, or take a finished one away",
        responses=documented("unknown_video", "already_cancelled", "records_unavailable"),
        openapi_extra={"parameters": [_NAME]},
    )
    async def delete(request: Request, key: Key = may) -> DeletedAnswer:
        identity = _identity(request.path_params["video"])
        gone = partial(jobs.delete, identity, key.id, request.state.request_id)
        return DeletedAnswer(id=identity, status=(await asked(gone)).status)

    @router.get(
        "/{video}/events",
        summary="Follow a video: what has happened to it, and what will",
        response_class=EventStream,
        responses={
            **documented("unknown_video", "invalid_value", "records_unavailable"),
            200: {
                "description": "Events `video.queued`, `video.in_progress`, ... to the last.",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
        },
        openapi_extra={"parameters": [_NAME, _BEHIND]},
    )
    async def follow(request: Request, key: Key = may) -> EventStream:
        identity = _identity(request.path_params["video"])
        seen = request.headers.get("last-event-id", "0")
        if not (seen.isascii() and seen.isdigit() and int(seen) < 2**31):
            raise invalid("Last-Event-ID", seen, "give the number of an event")
        await request.body()
        steps = _happening(jobs, identity, key.id, int(seen), http.timeout_s)
        told = await events(request, steps, http.timeout_s + 2 * FOLLOW_S)
        return EventStream(told, media_type="text/event-stream")

    return router


async def _asked_for(door: Door, request: Request, key: Key, ask: VideoAsk) -> Job:
    """Check what is asked, measure whom it shows, and write it down."""
    jobs, once = door.videos, request.headers.get("idempotency-key")
    if once is not None and not _KEY.fullmatch(once):
        raise invalid("Idempotency-Key", once, "give 1 to 255 printable characters")
    info = door.video_info
    if info is None or ask.model not in ("", info.model):
        words = f"No video model {ask.model!r} is served here." if ask.model else "No video model."
        raise Refusal("unknown_model", f"{words} {info.model if info else 'None'} is served.")
    mark = fingerprint(ask.model_dump(exclude={"user", "safety_identifier"}))
    same = await asked(partial(jobs.find, key.id, once, mark))
    if same:
        return same
    draw = checked(ask, info, door.recipe.videos, request.state.request_id)
    person = ask.identity[0] if ask.identity and isinstance(ask.identity[0], str) else ""
    if ask.identity:
        reference = await door.guard.reference(ask.identity, key, draw.request_id)
        if info.embedder and reference.embedder != info.embedder:
            words = f"{info.model} understands faces as {info.embedder} measures them."
            raise Refusal("embedder_mismatch", words, {"wanted": info.embedder})
        if info.looks_at_face and not reference.faces:
            raise Refusal("identity_not_supported", NO_FACE.format(info.model))
        faces = reference.faces[:1] if info.looks_at_face else ()
        draw = replace(draw, reference=replace(reference, faces=faces))
    if door.keys is not None:
        await asyncio.to_thread(door.keys.charge, key, draw.frames)
    ours, add = False, partial(jobs.add, fingerprint=mark, person=person, idempotency_key=once)
    try:
        job = await asked(partial(add, key.id, draw, info.model, fps=info.fps))
        ours = job.request_id == draw.request_id  # not if it was sent twice at once
    finally:
        if door.keys is not None and not ours:
            await asyncio.shield(asyncio.to_thread(door.keys.charge, key, -draw.frames))
    return job


async def _happening(
    jobs: Jobs, job: str, owner: str, seen: int, timeout_s: float
) -> AsyncGenerator[str, None]:
    """Yield events as JSON until the job has ended, or the time is up: clients then ask again."""
    until = asyncio.get_running_loop().time() + timeout_s
    while True:
        news, alive = await asked(partial(jobs.events, job, owner, seen))
        for one in news:
            seen = one.number
            yield VideoEvent(
                type=f"video.{one.status}",
                sequence_number=one.number,
                id=job,
                status=one.status,
                progress=one.progress,
                at=one.at,
            ).model_dump_json()
        if not alive or asyncio.get_running_loop().time() > until:
            return
        await asyncio.sleep(FOLLOW_S)


async def _found(jobs: Jobs, request: Request, key: Key) -> Job:
    identity = _identity(request.path_params["video"])
    return await asked(partial(jobs.get, identity, key.id))


def _identity(name: str) -> str:
    if not VIDEO_ID.fullmatch(name):
        raise unknown(name)
    return name


def _told(job: Job) -> VideoAnswer:
    said = job.asked
    fps = said.get("fps")
    seconds = said["frames"] / fps if fps else 0
    return VideoAnswer(
        id=job.id,
        model=said["model"],
        status=job.status,
        progress=job.progress,
        created_at=int(job.created),
        completed_at=int(job.ended) if job.ended and job.status == "completed" else None,
        expires_at=int(job.expires) if job.status == "completed" else None,
        size=f"{said['width_px']}x{said['height_px']}",
        seconds=f"{seconds:g}",
        frames=said["frames"],
        seed=said["seed"],
        prompt=said["prompt"],
        identity=job.person,
        error=VideoProblem(code=job.error_code, message=job.error_message)
        if job.status == "failed"
        else None,
    )
