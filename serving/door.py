"""What the routes share: whom they ask, who may ask them, and which refusals they document."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from serving.errors import RETRYABLE, STATUS, Refusal
from serving.faces import Faces
from serving.guard import Guard
from serving.jobs.table import Jobs
from serving.keys import ANYBODY, Key, Keys
from serving.metrics import Metrics
from serving.provenance.stamp import Provenance
from serving.recipes import ServeRecipe
from serving.schemas import Ask, ErrorAnswer
from serving.types import Images
from serving.videos import VideoInfo

_BEARER = HTTPBearer(auto_error=False, description="`vsg_...`, made with `visage keys add`.")
_EVERYWHERE = ("bad_request", "not_found", "method_not_allowed", "timed_out", "internal")
_WITH_A_BODY = (
    "unknown_field", "invalid_value", "url_not_accepted", "body_too_large",
    "unsupported_media_type",
)  # fmt: skip
OF_KEYS = ("missing_key", "wrong_key", "revoked_key", "out_of_scope", "rate_exceeded")
OF_PICTURES = (*_WITH_A_BODY, "unreadable_image", "too_many_pixels", "animated_image")
OF_FACES = ("no_face", "several_faces")
OF_RECORDS = ("protected_person", "protection_unavailable", "records_unavailable")


@dataclass(kw_only=True)
class Door:
    """What stands behind the routes."""

    recipe: ServeRecipe
    images: Images | None
    """None: faces only."""
    faces: Faces
    guard: Guard
    provenance: Provenance
    videos: Jobs
    video_info: VideoInfo | None
    """Of what draws videos; None: nothing does."""
    keys: Keys | None
    """None: anybody may ask."""
    metrics: Metrics
    forgetters: list[Callable[[str], object]] = field(default_factory=list)
    """Each is given the id of a person who is being forgotten, and deletes what it has of them:
    results, jobs. Called in a thread, and again if it raised or the process died."""
    draining: bool = False
    """Set before the end: readiness is refused while what was begun is finished."""
    names: dict[str, str] = field(init=False)
    """References by the names that clients use; of a folder they learn only its name."""

    def __post_init__(self) -> None:
        listed = (self.recipe.model, *self.recipe.adapters)
        self.names = {shown(reference): reference for reference in listed if reference}

    def allowed(self, scope: str) -> Any:  # noqa: ANN401 - FastAPI's own marker
        """Return the dependency that lets in keys for a scope."""

        def check(
            sent: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
        ) -> Key:
            if self.keys is None:
                return ANYBODY
            return self.keys.check(sent.credentials if sent else None, scope)

        return Depends(check)

    def drawers(self) -> Images:
        """Return what draws.

        Raises:
            Refusal: ``unknown_model``: nothing does.
        """
        if self.images is None:
            raise Refusal("unknown_model", "No model is served here, only faces are measured.")
        return self.images


def shown(reference: str) -> str:
    """Return the name by which clients know a model: never where it lies."""
    return Path(reference).name if reference.startswith("file:") else reference


def documented(*codes: str, with_keys: bool = True) -> dict[int | str, dict[str, Any]]:
    """Describe a route's refusals for OpenAPI, with an example of each."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for code in dict.fromkeys((*codes, *(OF_KEYS if with_keys else ()), *_EVERYWHERE)):
        told = by_status.setdefault(
            STATUS[code],
            {"model": ErrorAnswer, "content": {"application/json": {"examples": {}}}},
        )
        told["content"]["application/json"]["examples"][code] = {"value": _example(code)}
        if code in RETRYABLE:
            words = "Seconds to wait before the same request is worth another try."
            told["headers"] = {"Retry-After": {"description": words, "schema": {"type": "integer"}}}
    for told in by_status.values():
        examples = told["content"]["application/json"]["examples"]
        told["description"] = ", ".join(f"`{code}`" for code in examples)
    return by_status


def body(model: type[Ask], example: dict[str, Any]) -> dict[str, Any]:
    """Describe a request's body for OpenAPI: the same fields as JSON and as a form."""
    schema = model.model_json_schema()
    form = {**schema, "properties": {k: _as_file(v) for k, v in schema["properties"].items()}}
    content = {
        "application/json": {"schema": schema, "example": example},
        "multipart/form-data": {"schema": form},
    }
    return {"requestBody": {"required": True, "content": content}}


def _as_file(schema: dict[str, Any]) -> dict[str, Any]:
    """Turn base64 into files, at any depth of a field's schema."""
    if schema.get("contentEncoding") == "base64":
        return {"type": "string", "contentMediaType": "application/octet-stream"} | {
            "description": schema["description"]
        }
    out = dict(schema)
    if "items" in out:
        out["items"] = _as_file(out["items"])
    if "anyOf" in out:
        out["anyOf"] = [_as_file(one) for one in out["anyOf"]]
    return out


def _example(code: str) -> dict[str, Any]:
    return {
        "error": {"code": code, "message": "What, with which value, and the cure.", "details": {}},
        "request_id": "0123456789abcdef0123456789abcdef",
    }
