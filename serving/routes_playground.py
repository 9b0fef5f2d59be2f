"""A page at `/` on which people can try what is served: files as they are, and what is offered.

The page asks the same routes as every other client. It fetches nothing from elsewhere, and its
Content-Security-Policy (https://www.w3.org/TR/CSP3/) holds the browser to that.
"""

from importlib.resources import files
from pathlib import PurePath
from typing import Any

from fastapi import APIRouter, Request, Response

from serving.door import Door, shown
from serving.edges import answered
from serving.errors import Refusal
from serving.sent import MAX_PHOTOS

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'",
        "img-src 'self' blob: data:", "media-src blob:", "base-uri 'none'", "form-action 'none'",
        "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
    )
)  # fmt: skip
_FOLDER = files("serving").joinpath("playground")
_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def playground_routes(door: Door) -> APIRouter:
    """Make the routes; none of them is part of the documented API."""
    router, pages = APIRouter(include_in_schema=False), _pages()

    @router.get("/")
    async def index() -> Response:
        return _page(pages, "index.html")

    @router.get("/playground/offered.json", dependencies=[door.allowed("models")])
    async def offered(request: Request) -> dict[str, Any]:
        return {
            "images": await answered(request, _images(door), door.recipe.http.timeout_s),
            "videos": _videos(door),
            "max_body_bytes": door.recipe.http.max_body_bytes,
            "max_photos": MAX_PHOTOS,
        }

    @router.get("/playground/{name}")
    async def page(request: Request) -> Response:
        return _page(pages, request.path_params["name"])

    return router


def _pages() -> dict[str, tuple[bytes, str]]:
    """Read all files once: names that a client sends never become paths."""
    found = [(file, PurePath(file.name).suffix) for file in _FOLDER.iterdir()]
    return {file.name: (file.read_bytes(), _TYPES[kind]) for file, kind in found if kind in _TYPES}


def _page(pages: dict[str, tuple[bytes, str]], name: str) -> Response:
    if name not in pages:
        raise Refusal("not_found", "There is nothing at this path.")
    content, media_type = pages[name]
    return Response(content, media_type=media_type, headers=_HEADERS)


async def _images(door: Door) -> dict[str, Any]:
    """Say what can be drawn; where nothing can, why."""
    try:
        info = await door.drawers().info()
    except Refusal as no:
        return {"offered": False, "why": no.message}
    settings = door.recipe.images
    return {
        "offered": True,
        "model": shown(info.model),
        "takes_text": info.takes_text,
        "takes_identity": info.takes_identity,
        "sides_px": info.sides_px,
        "fixed_size": info.fixed_size,
        "multiple_px": info.multiple_px,
        "max_side_px": max(settings.max_side_px, *info.sides_px),
        "max_pictures": settings.max_pictures,
        "steps": settings.steps,
        "max_steps": settings.max_steps,
    }


def _videos(door: Door) -> dict[str, Any]:
    info = door.video_info
    if info is None:
        return {"offered": False, "why": "No video model is served here."}
    return {
        "offered": True,
        "model": info.model,
        "takes_text": info.takes_text,
        "takes_identity": info.takes_identity,
        "sides_px": info.sides_px,
        "multiple_px": info.multiple_px,
        "max_side_px": max(door.recipe.videos.max_side_px, *info.sides_px),
        "frames": info.frames,
        "max_frames": info.max_frames,
        "fps": info.fps,
    }
