"""How serving says no: one class, one closed table of codes.

Every answer that is not a success carries ``{"error": {"code", "message", "details"},
"request_id"}``. The codes are the contract: clients branch on them, so none is ever renamed.
"""

from collections.abc import Mapping
from typing import Any

from infra.errors import VisageError

STATUS: dict[str, int] = {
    # What was sent.
    "bad_request": 400,
    "unknown_field": 400,
    "invalid_value": 400,
    "prompt_not_supported": 400,
    "identity_not_supported": 400,
    "url_not_accepted": 400,
    "not_found": 404,
    "unknown_model": 404,
    "method_not_allowed": 405,
    "unknown_video": 404,
    "no_preview": 404,
    "idempotency_conflict": 409,
    "not_finished": 409,
    "no_result": 409,
    "already_cancelled": 409,
    "video_expired": 410,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    "unreadable_image": 422,
    "too_many_pixels": 422,
    "animated_image": 422,
    "no_face": 422,
    "several_faces": 422,
    "different_people": 422,
    "embedder_mismatch": 422,
    "poor_photo": 422,
    "not_anonymised": 422,
    "not_live": 422,
    # Whom it is about.
    "unknown_person": 404,
    "consent_missing": 403,
    "consent_expired": 403,
    "consent_in_future": 403,
    "protected_person": 403,
    "too_many_people": 403,
    # Who sent it.
    "missing_key": 401,
    "wrong_key": 401,
    "revoked_key": 401,
    "out_of_scope": 403,
    "rate_exceeded": 429,
    "quota_exceeded": 429,
    # What we could not do.
    "timed_out": 408,
    "overloaded": 429,
    "model_unavailable": 503,
    "shutting_down": 503,
    "liveness_unavailable": 503,
    "protection_unavailable": 503,
    "records_unavailable": 503,
    "signer_unavailable": 503,
    "internal": 500,
}
"""HTTP status by code."""

RETRYABLE = frozenset(
    {
        "rate_exceeded",
        "overloaded",
        "model_unavailable",
        "shutting_down",
        "records_unavailable",
        "signer_unavailable",
    }
)
"""Codes that come with ``Retry-After``: the same request may succeed later, unchanged."""


class Refusal(VisageError):
    """A request that is answered with an error the client can act on."""

    def __init__(
        self,
        code: str,
        message: str,
        details: Mapping[str, Any] | None = None,
        retry_after_s: int = 0,
    ) -> None:
        self.code, self.message = code, message
        self.details, self.retry_after_s = dict(details or {}), retry_after_s
        super().__init__(code, message, self.details, retry_after_s)

    @property
    def status(self) -> int:
        """Return the HTTP status."""
        return STATUS[self.code]

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"
