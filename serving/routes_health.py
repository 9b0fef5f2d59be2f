"""Is it alive, is it ready, what has it counted, what does it serve?"""

import time
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from serving.door import Door, documented
from serving.edges import answered
from serving.errors import Refusal
from serving.schemas import HealthAnswer, ModelAnswer, ModelsAnswer

_NAME = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}


def health_routes(door: Door) -> APIRouter:
    """Make the routes."""
    router, began = APIRouter(), int(time.time())

    @router.get(
        "/v1/health/live",
        tags=["health"],
        summary="Whether the process answers",
        responses=documented(with_keys=False),
    )
    async def live() -> HealthAnswer:
        return HealthAnswer(status="live")

    @router.get(
        "/v1/health/ready",
        tags=["health"],
        summary="Whether a request now would be carried out",
        responses=documented("model_unavailable", "shutting_down", with_keys=False),
    )
    async def ready(request: Request) -> HealthAnswer:
        if door.draining:
            raise Refusal("shutting_down", "This replica ends; ask another.", retry_after_s=1)
        if door.images is not None:
            timeout_s = door.recipe.http.timeout_s
            if not await answered(request, door.images.healthy(), timeout_s):
                words = "The model does not answer; it is being looked after."
                raise Refusal("model_unavailable", words, retry_after_s=5)
        return HealthAnswer(status="ready")

    @router.get(
        "/metrics",
        tags=["health"],
        summary="Counters of this process, for Prometheus",
        response_class=Response,
        responses={**documented(), 200: {"content": {"text/plain": {}}}},
        dependencies=[door.allowed("admin")],
    )
    async def metrics() -> Response:
        return Response(door.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    def answer(name: str) -> ModelAnswer:
        return ModelAnswer(id=name, created=began)

    @router.get(
        "/v1/models",
        tags=["models"],
        summary="The served model and the adapters beside it",
        responses=documented(),
        dependencies=[door.allowed("models")],
    )
    async def models() -> ModelsAnswer:
        return ModelsAnswer(data=[answer(name) for name in door.names])

    @router.get(
        "/v1/models/{model:path}",
        tags=["models"],
        summary="One of them",
        responses=documented("unknown_model"),
        dependencies=[door.allowed("models")],
        openapi_extra={"parameters": [_NAME]},
    )
    async def model(request: Request) -> ModelAnswer:
        # Read from the request: a declared parameter would bring FastAPI's own error along.
        name = request.path_params["model"]
        if name not in door.names:
            raise unknown(name, door)
        return answer(name)

    return router


def unknown(name: str, door: Door) -> Refusal:
    """Say that nothing of that name is served."""
    words = f"{name[:80]!r} is not served here; `GET /v1/models` lists what is."
    details: dict[str, Any] = {"served": list(door.names)}
    return Refusal("unknown_model", words, details)
