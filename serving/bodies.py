"""The body of a request as a checked model: JSON or multipart, the same fields."""

import asyncio
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from infra.errors import nearest
from serving.errors import Refusal
from serving.schemas import Ask

AnyAsk = TypeVar("AnyAsk", bound=Ask)

JSON, MULTIPART = "application/json", "multipart/form-data"
_MAX_FILES, _MAX_FIELDS = 16, 64
_LISTS = ("identity", "photos")
_ON_THE_LOOP_BYTES = 2**16


async def read(request: Request, kind: type[AnyAsk], max_bytes: int) -> AnyAsk:
    """Read what is asked.

    Args:
        request: Its body has not been read.
        kind: What is asked.
        max_bytes: Of the body, which the door has seen to; a form's field may be as long.

    Raises:
        Refusal: ``unsupported_media_type``, ``bad_request``, ``unknown_field``,
            ``invalid_value`` or ``url_not_accepted``.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media == JSON:
        body = await request.body()
        if len(body) <= _ON_THE_LOOP_BYTES:
            return _from_json(body, kind)
        return await asyncio.to_thread(_from_json, body, kind)
    if media == MULTIPART:
        fields = await _form(request, max_bytes)
        return await asyncio.to_thread(_checked, kind, fields)
    raise Refusal("unsupported_media_type", f"Send {JSON} or {MULTIPART}, not {media[:80]!r}.")


async def _form(request: Request, max_bytes: int) -> dict[str, Any]:
    """Collect a form's fields; files lie in unnamed temporary ones, closed here."""
    fields: dict[str, Any] = {}
    limits = {"max_files": _MAX_FILES, "max_fields": _MAX_FIELDS, "max_part_size": max_bytes}
    async with request.form(**limits) as form:
        for name, value in form.multi_items():
            plain = name.removesuffix("[]")  # as OpenAI's client names the parts of a list
            item = await value.read() if isinstance(value, UploadFile) else value
            if plain not in fields:
                fields[plain] = item
            elif plain in _LISTS:
                held = fields[plain]
                fields[plain] = [*(held if isinstance(held, list) else [held]), item]
            else:
                raise Refusal("invalid_value", f"{plain} was sent twice.", {"field": plain})
    return fields


def _from_json(body: bytes, kind: type[AnyAsk]) -> AnyAsk:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error, kind) from None


def _checked(kind: type[AnyAsk], fields: dict[str, Any]) -> AnyAsk:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _refusal(error, kind) from None


def _refusal(error: ValidationError, kind: type[Ask]) -> Refusal:
    """Say what is wrong, without repeating what was sent."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    first = problems[0]
    if not first["loc"]:
        words = "is not JSON" if first["type"] == "json_invalid" else "is no JSON object"
        return Refusal("bad_request", f"The body {words}.")
    for problem in problems:
        if problem["type"] == "extra_forbidden":
            name = _path(problem["loc"])[:80]
            known = kind.model_fields if len(problem["loc"]) == 1 else ()
            cure = nearest(name, known) if known else "The document /openapi.json has them all."
            words = f"There is no field {name!r} here. {cure}"
            return Refusal("unknown_field", words, {"field": name})
    words = "; ".join(f"{_path(problem['loc'])}: {problem['msg']}" for problem in problems)
    return Refusal("invalid_value", f"{words}.", {"field": _path(first["loc"])})


def _path(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc)
