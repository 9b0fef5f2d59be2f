"""What is asked and answered about people, field by field."""

import json
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field, WithJsonSchema

from serving.errors import Refusal
from serving.schemas import Ask
from serving.sent import Photo, Photos

MOST_FOUND = 100
# A zero byte is no text to PostgreSQL.
_Text = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]


class ConsentAsk(Ask):
    """A record of consent."""

    purpose: _Text = Field(description="What the pictures are for, as the person was told.")
    until: AwareDatetime = Field(description="When it ends: RFC 3339, with a time zone.")
    evidence: _Text = Field(description="Where the proof is kept: a document's number, a URL.")
    granted_at: AwareDatetime | None = Field(None, description="When it was given; absent: now.")
    subject_name: str = Field(
        "", max_length=200, pattern=r"^[^\x00]*$", description="Whose it is, if you want it kept."
    )


def _from_text(value: Any) -> Any:  # noqa: ANN401 - whatever was sent
    """Read an object that came as a form's text."""
    if not isinstance(value, (str, bytes)):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise Refusal("invalid_value", "consent: it is not JSON.", {"field": "consent"}) from None


_CONSENT = {**ConsentAsk.model_json_schema(), "description": "In a form: as JSON."}
ConsentField = Annotated[ConsentAsk | None, BeforeValidator(_from_text), WithJsonSchema(_CONSENT)]


class EnrolAsk(Ask):
    """A person to enrol."""

    photos: Photos = Field(min_length=1, description="Of this one person, alone on each.")
    consent: ConsentField = None


class RenewAsk(Ask):
    """A new consent of somebody who is enrolled."""

    consent: ConsentField = None


class SearchAsk(Ask):
    """A photograph of somebody who may be enrolled."""

    image: Photo
    limit: int = Field(10, ge=1, le=MOST_FOUND, description="People at most.")


class ConsentAnswer(BaseModel):
    """The consent that is on record."""

    purpose: str
    until: datetime
    evidence: str
    granted_at: datetime
    subject_name: str


class PersonAnswer(BaseModel):
    """An enrolled person."""

    id: str = Field(description="To be given as `identity` where pictures are drawn.")
    object: Literal["person"] = "person"
    created: int
    status: Literal["active", "expired"]
    photos: int = Field(description="That were measured; none is kept.")
    crops: bool = Field(description="Whether their aligned faces are kept.")
    embedder: str
    liveness: Literal["passed", "absent"] = Field(
        description="Whether it was checked that living people stood before the camera."
    )
    consent: ConsentAnswer


class PeopleAnswer(BaseModel):
    """Enrolled people of this key, oldest first."""

    object: Literal["list"] = "list"
    data: list[PersonAnswer]
    has_more: bool
    last_id: str = Field(description="To be given as `after` for the next page; empty: none.")


class ForgottenAnswer(BaseModel):
    """Somebody who was forgotten."""

    id: str
    object: Literal["person.deleted"] = "person.deleted"
    deleted: Literal[True] = True
    erased: bool = Field(
        description="Whether the disk was rewritten too; false: others were reading, and it is "
        "done with the next change."
    )


class MatchAnswer(BaseModel):
    """One enrolled person who looks like that."""

    id: str
    distance: float
    same_person: bool


class SearchAnswer(BaseModel):
    """The enrolled people of this key who look most like that, nearest first."""

    object: Literal["list"] = "list"
    data: list[MatchAnswer]
    enrolled: int = Field(description="How many were compared.")
    threshold: float
    embedder: str
    metric: Literal["l2", "cosine"]
