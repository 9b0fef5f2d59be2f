"""Pictures: drawn from words and a person, or from another picture; OpenAI's images API."""

import asyncio
import re
import secrets
import time
from base64 import b64encode
from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from serving.bodies import read
from serving.database import asked
from serving.door import OF_FACES, OF_PICTURES, OF_RECORDS, Door, body, documented, shown
from serving.edges import answered
from serving.errors import Refusal
from serving.events import EventStream, events
from serving.keys import Key
from serving.limits import NO_REFERENCE, check
from serving.provenance.credentials import Made
from serving.provenance.stamp import Stamp
from serving.routes_health import unknown
from serving.schemas import (
    Account,
    CompletedEvent,
    EditAsk,
    GenerationAsk,
    ImagesAnswer,
    PartialEvent,
    Picture,
)
from serving.types import RGB, Draw, Drawn, Edit, Images, ModelInfo, Preview
from serving.uploads import fit, fit_mask, mask, picture

_REGISTERED = re.compile(r"([A-Za-z0-9][\w.-]*)(?:[@/][\w.-]+)?", re.ASCII)
_REFUSALS = documented(
    *OF_PICTURES, *OF_FACES, "different_people", "embedder_mismatch", "prompt_not_supported",
    "identity_not_supported", "unknown_model", "quota_exceeded", "overloaded",
    "model_unavailable", "shutting_down", "unknown_person", "consent_expired", *OF_RECORDS,
    "signer_unavailable",
)  # fmt: skip
_STREAMED = {
    "description": "Pictures; with `stream` the events `*.partial_image` and `*.completed`.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


def images_routes(door: Door) -> APIRouter:
    """Make the routes."""
    router = APIRouter(prefix="/v1/images", tags=["images"])
    may = door.allowed("images")
    responses: dict[int | str, dict[str, Any]] = {**_REFUSALS, 200: _STREAMED}

    @router.post(
        "/generations",
        summary="Draw pictures, of a person if photographs are given",
        response_model=ImagesAnswer,
        responses=responses,
        openapi_extra=body(GenerationAsk, {"prompt": "a portrait", "n": 1, "seed": 7}),
    )
    async def generations(request: Request, key: Key = may) -> Response:
        ask = await read(request, GenerationAsk, door.recipe.http.max_body_bytes)
        return await _Errand(door, request, key, ask).carry_out()

    @router.post(
        "/edits",
        summary="Draw pictures that start from one",
        response_model=ImagesAnswer,
        responses=responses,
        openapi_extra=body(EditAsk, {"prompt": "a portrait", "image": "<base64>", "seed": 7}),
    )
    async def edits(request: Request, key: Key = may) -> Response:
        ask = await read(request, EditAsk, door.recipe.http.max_body_bytes)
        return await _Errand(door, request, key, ask).carry_out()

    return router


class _Errand:
    """One request for pictures, from what was asked to the answer."""

    def __init__(self, door: Door, request: Request, key: Key, ask: GenerationAsk) -> None:
        self._door, self._request, self._key, self._ask = door, request, key, ask
        self._timeout_s = door.recipe.http.timeout_s
        self._began = int(time.time())
        self._event = "image_edit" if isinstance(ask, EditAsk) else "image_generation"

    async def carry_out(self) -> Response:
        """Check, measure, draw, answer."""
        if self._ask.partial_images and not self._ask.stream:
            raise _invalid("partial_images", "they are sent while streaming only; set stream")
        images = self._door.drawers()
        draw = await answered(self._request, self._draw(images), self._timeout_s)
        self._stamp = await asked(partial(self._stamped, draw))
        if self._ask.stream:
            steps = self._paid_stream(images, draw)
            told = await events(self._request, steps, self._timeout_s)
            return EventStream(told, media_type="text/event-stream")
        return await answered(self._request, self._paid(images, draw), self._timeout_s)

    async def _draw(self, images: Images) -> Draw:
        """Make the request's draw, its defaults filled in, and refuse what the model cannot do."""
        ask, settings = self._ask, self._door.recipe.images
        adapter = _adapter(ask, self._door)
        info = await images.info(adapter)
        # What a refusal names is what clients know it by.
        info = self._info = replace(info, model=shown(info.model))
        if ask.identity and not info.takes_identity:
            raise Refusal("identity_not_supported", NO_REFERENCE.format(info.model))
        width_px, height_px = _sides_px(ask.size, info)
        draw = Draw(
            request_id=self._request.state.request_id,
            adapter=adapter,
            prompt=ask.prompt,
            negative_prompt=ask.negative_prompt,
            identity_scale=ask.identity_scale,
            start_step=ask.start_step,
            width_px=width_px,
            height_px=height_px,
            pictures=ask.n,
            seed=secrets.randbelow(2**31) if ask.seed is None else ask.seed,
            steps=settings.steps if ask.steps is None else ask.steps,
            guidance=settings.guidance if ask.guidance is None else ask.guidance,
            previews=ask.partial_images,
        )
        check(draw, info, settings)
        if isinstance(ask, EditAsk):
            max_pixels = self._door.recipe.http.max_pixels
            draw = replace(draw, edit=await asyncio.to_thread(_edit, ask, draw, max_pixels))
        if ask.identity:
            work = self._door.guard.reference(ask.identity, self._key, draw.request_id)
            draw = replace(draw, reference=await work)
            check(draw, info, settings)
        return draw

    async def _paid(self, images: Images, draw: Draw) -> Response:
        """Draw against the key's quota; what is not drawn is given back."""
        await self._charge(draw.pictures)
        try:
            drawn = await images.draw(draw)
            await self._door.guard.drawn(drawn.pictures, self._key, draw.request_id)
            answer = await asyncio.to_thread(self._answer, drawn, draw)
        except BaseException:
            await asyncio.shield(self._charge(-draw.pictures))
            raise
        self._count(drawn, draw)
        return answer

    async def _paid_stream(self, images: Images, draw: Draw) -> AsyncGenerator[str, None]:
        """Draw against the key's quota, yielding the data of events."""
        await self._charge(draw.pictures)
        whole, steps, held = False, images.stream(draw), list[Preview]()
        try:
            async for step in steps:
                if isinstance(step, Preview):
                    if held or await self._door.guard.holds_back():
                        held.append(step)
                    else:
                        yield await asyncio.to_thread(self._partial, step, draw)
                    continue
                await self._door.guard.drawn(step.pictures, self._key, draw.request_id)
                for preview in held:
                    yield await asyncio.to_thread(self._partial, preview, draw)
                whole = True
                self._count(step, draw)
                for index in range(len(step.pictures)):
                    yield await asyncio.to_thread(self._completed, step, index, draw)
        finally:
            if isinstance(steps, AsyncGenerator):
                await steps.aclose()
            if not whole:
                await asyncio.shield(self._charge(-draw.pictures))

    async def _charge(self, pictures: int) -> None:
        if self._door.keys is not None:
            await asyncio.to_thread(self._door.keys.charge, self._key, pictures)

    def _count(self, drawn: Drawn, draw: Draw) -> None:
        self._door.metrics.drew(drawn, shown(drawn.model), draw.steps)

    def _answer(self, drawn: Drawn, draw: Draw) -> Response:
        answer = ImagesAnswer(
            created=self._began,
            data=[Picture(b64_json=self._base64(one, drawn.model)) for one in drawn.pictures],
            output_format=self._ask.output_format,
            size=_size(draw),
            visage=self._account(drawn),
        )
        return Response(answer.model_dump_json(), media_type="application/json")

    def _partial(self, preview: Preview, draw: Draw) -> str:
        return PartialEvent(
            **self._facts(f"{self._event}.partial_image", draw),
            b64_json=self._base64(preview.picture),
            partial_image_index=preview.index,
        ).model_dump_json()

    def _completed(self, drawn: Drawn, index: int, draw: Draw) -> str:
        return CompletedEvent(
            **self._facts(f"{self._event}.completed", draw),
            b64_json=self._base64(drawn.pictures[index], drawn.model),
            visage=self._account(drawn),
        ).model_dump_json()

    def _facts(self, kind: str, draw: Draw) -> dict[str, Any]:
        return {
            "type": kind, "created_at": self._began, "size": _size(draw),
            "output_format": self._ask.output_format,
        }  # fmt: skip

    def _stamped(self, draw: Draw) -> Stamp:
        made = Made(
            model=self._info.model,
            adapter=draw.adapter,
            recipe=self._info.labels.get("visage.recipe_digest", ""),
            request_id=draw.request_id,
        )
        sides = draw.width_px, draw.height_px
        return self._door.provenance.stamp(self._key.id, made, *sides)

    def _base64(self, drawn: RGB, model: str = "") -> str:
        ask = self._ask
        parent = ask.image if isinstance(ask, EditAsk) else None
        how = ask.output_format, ask.output_compression
        return b64encode(self._stamp.finish(drawn, *how, parent, shown(model))).decode()

    def _account(self, drawn: Drawn) -> Account:
        return Account(
            model=shown(drawn.model),
            seeds=list(drawn.seeds),
            queued_s=round(drawn.queued_s, 4),
            drawing_s=round(drawn.drawing_s, 4),
            batch=drawn.batch,
            signed_by=self._door.provenance.signer,
            watermark=self._stamp.made.watermark,
        )


def _adapter(ask: GenerationAsk, door: Door) -> str:
    """Return the reference of what is to draw; empty: the served model.

    OpenAI's clients choose by ``model``, so that may name an adapter too. Names are looked up;
    nothing a client says becomes a path.
    """
    asked = ask.adapter or ask.model
    served = door.names.get(ask.model, "") == door.recipe.model
    if ask.adapter and ask.model and ask.model != ask.adapter and not served:
        raise _invalid("adapter", "model names another one; give either")
    if asked in door.names:
        reference = door.names[asked]
        return "" if reference == door.recipe.model else reference
    found = _REGISTERED.fullmatch(asked)
    known = {m[1] for name in door.names.values() if (m := _REGISTERED.fullmatch(name))}
    if asked and (not found or found[1] not in known):
        raise unknown(asked, door)
    return asked


def _sides_px(size: str, info: ModelInfo) -> tuple[int, int]:
    if size == "auto":
        return info.sides_px
    width_px, height_px = (int(side) for side in size.split("x"))
    return width_px, height_px


def _edit(ask: EditAsk, draw: Draw, max_pixels: int) -> Edit:
    """Bring picture and mask to the size that is drawn."""
    start = picture(ask.image, max_pixels)
    where = mask(ask.mask, max_pixels) if ask.mask is not None else None
    if where is not None and where.shape != start.shape[:2]:
        raise _invalid("mask", f"it must have the image's size, {start.shape[1]}x{start.shape[0]}")
    sides = draw.width_px, draw.height_px
    return Edit(
        picture=fit(start, *sides),
        mask=None if where is None else fit_mask(where, *sides),
        strength=ask.strength,
    )


def _size(draw: Draw) -> str:
    return f"{draw.width_px}x{draw.height_px}"


def _invalid(field: str, cure: str) -> Refusal:
    return Refusal("invalid_value", f"{field}: {cure}.", {"field": field})
