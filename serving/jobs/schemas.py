"""What is asked and answered of videos: OpenAI's videos API, and what identity adds to it."""

from typing import Literal

from pydantic import BaseModel, Field

from serving.jobs.records import Status
from serving.schemas import Ask, Name, Prompt
from serving.sent import Identity


class VideoAsk(Ask):
    """A request for a video."""

    prompt: Prompt = Field("", description="Empty for models that were trained without text.")
    negative_prompt: Prompt = ""
    model: Name = Field("", description="The served one; there is no other.")
    identity: Identity = Field([], description="The one to draw: photographs, or a person's id.")
    identity_scale: float = Field(1.0, ge=0, le=2, description="Weight of the identity.")
    seconds: float | None = Field(None, gt=0, le=600, description="Give this or `frames`.")
    frames: int | None = Field(None, ge=1, le=100_000)
    size: str = Field("auto", pattern=r"^(auto|[1-9]\d{0,4}x[1-9]\d{0,4})$")
    seed: int | None = Field(None, ge=0, le=2**53 - 1)
    steps: int | None = Field(None, ge=1)
    guidance: float | None = Field(None, ge=0, le=50)
    user: Name = Field("", description="Neither used nor recorded.")
    safety_identifier: Name = Field("", description="Neither used nor recorded.")


class VideoProblem(BaseModel):
    """Why a video could not be drawn."""

    code: str = Field(description="Of the same list as those of refusals.")
    message: str


class VideoAnswer(BaseModel):
    """A job, as OpenAI's video object."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Status
    progress: int = Field(ge=0, le=100, description="Percent.")
    created_at: int
    completed_at: int | None
    expires_at: int | None = Field(description="When the video goes; null while there is none.")
    size: str
    seconds: str
    frames: int
    seed: int
    prompt: str = Field(description="Empty when it has expired.")
    identity: str = Field(description="Id of the enrolled person; empty: none of them.")
    error: VideoProblem | None


class VideosAnswer(BaseModel):
    """Jobs of a key."""

    object: Literal["list"] = "list"
    data: list[VideoAnswer]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedAnswer(BaseModel):
    """A job that was cancelled, or whose video was taken away."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True
    status: Status = Field(description="`cancelled`, or how it had ended.")


class VideoEvent(BaseModel):
    """How a job was when something happened to it."""

    type: str = Field(description="`video.` and its status.")
    sequence_number: int = Field(description="From 1; also the event's id.")
    id: str
    status: Status
    progress: int
    at: float = Field(description="Seconds since 1970.")
