"""Read the body of an answer: known by its first bytes, within its bound, whole or not at all."""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from stages.web.refusal import Refused
from stages.web.settings import VIDEOS, FetchSettings
from stages.web.sniff import HEAD_BYTES, sniff

_SUFFIX = {"video/mp4": ".mp4", "video/webm": ".webm", "video/quicktime": ".mov"}
_WRITE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Body:
    """A picture in memory, or a video on disk."""

    blob: bytes | None = None
    file: str = ""
    """Where the video is; its name is its sha256."""


async def read_body(
    response: aiohttp.ClientResponse, settings: FetchSettings, spool: Path | None = None
) -> Body:
    """Read all of a body, counted after any decompression.

    Args:
        response: An answer with status 200.
        settings: Types and sizes that are allowed.
        spool: The folder for videos.

    Raises:
        Refused: ``empty``, ``wrong_type`` or ``too_large``.
    """
    announced = response.content_length or 0
    most = max(settings.cap_bytes(kind) for kind in settings.types)
    if announced > most:
        raise Refused("too_large", f"{announced} bytes announced, {most} allowed")
    head = bytearray()
    while len(head) < HEAD_BYTES and (piece := await response.content.readany()):
        head += piece
    if not head:
        raise Refused("empty", f"answered {response.status} with no bytes")
    kind = sniff(bytes(head[:HEAD_BYTES]))
    if kind not in settings.types:
        beginning = bytes(head[:40]).decode("ascii", "replace").replace("\ufffd", ".")
        named = f"it is {kind}" if kind else f"it begins with {beginning!r}"
        raise Refused("wrong_type", f"{named}; the server calls it {response.content_type!r}")
    pieces = _bounded(response, head, settings.cap_bytes(kind))
    if kind in VIDEOS and spool is not None:
        return Body(file=str(await _to_disk(pieces, spool, _SUFFIX[kind])))
    body = bytearray()
    async for piece in pieces:
        body += piece
    return Body(blob=bytes(body))


async def _bounded(
    response: aiohttp.ClientResponse, head: bytearray, max_bytes: int
) -> AsyncIterator[bytes]:
    """Yield the body piece by piece, and nothing beyond ``max_bytes``."""
    piece, size = bytes(head), len(head)
    while piece:
        if size > max_bytes:
            raise Refused("too_large", f"more than the {max_bytes} bytes allowed")
        yield piece
        piece = await response.content.readany()
        size += len(piece)


async def _to_disk(pieces: AsyncIterator[bytes], spool: Path, suffix: str) -> Path:
    """Write a video beside its place while hashing it, then give it the hash for a name."""
    spool.mkdir(parents=True, exist_ok=True)
    beside = spool / f".{uuid.uuid4().hex}.part"
    digest = hashlib.sha256()
    try:
        with beside.open("wb", buffering=_WRITE_BYTES) as file:
            async for piece in pieces:
                digest.update(piece)
                await asyncio.to_thread(file.write, piece)
        whole = spool / f"{digest.hexdigest()}{suffix}"
        beside.replace(whole)
    finally:
        beside.unlink(missing_ok=True)
    return whole
