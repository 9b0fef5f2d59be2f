"""What is asked and answered, field by field: OpenAI's images API, and what identity adds to it.

A request may come as JSON, with files in base64, or as multipart, with files as they are; the
fields are the same. A field that is not here is refused by its name.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.errors import Refusal
from serving.sent import Identity, Photo
from serving.uploads import OutputFormat

MAX_PROMPT_CHARS = 4000
Prompt = Annotated[str, Field(max_length=MAX_PROMPT_CHARS)]
Name = Annotated[str, Field(max_length=256)]


class Ask(BaseModel):
    """What every request shares: unknown fields are refused, null is the same as absent."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:  # noqa: ANN401 - whatever was sent
        if isinstance(value, dict):
            return {name: item for name, item in value.items() if item is not None}
        return value


class GenerationAsk(Ask):
    """A request for pictures."""

    prompt: Prompt = Field("", description="Empty for models that were trained without text.")
    negative_prompt: Prompt = ""
    model: Name = Field("", description="The served model, or one of the adapters beside it.")
    adapter: Name = Field("", description="A registry name: NAME, NAME@alias or NAME/version.")
    identity: Identity = Field([], description="The one to draw: photographs, or a person's id.")
    identity_scale: float = Field(1.0, ge=0, le=2, description="Weight of the identity.")
    start_step: int = Field(0, ge=0, description="Steps drawn before identity comes in.")
    n: int = Field(1, ge=1, description="Pictures.")
    size: str = Field("auto", pattern=r"^(auto|[1-9]\d{0,4}x[1-9]\d{0,4})$")
    seed: int | None = Field(None, ge=0, le=2**53 - 1, description="Of the first; they count up.")
    steps: int | None = Field(None, ge=1)
    guidance: float | None = Field(None, ge=0, le=50)
    output_format: OutputFormat = "png"
    output_compression: int | None = Field(None, ge=0, le=100, description="JPEG, WebP: quality.")
    response_format: Literal["b64_json"] = "b64_json"
    stream: bool = Field(False, description="Answer with server-sent events.")
    partial_images: int = Field(
        0, ge=0, le=3,
        description="Unfinished pictures to stream; where people are protected, they come when "
        "the picture is done and was looked at.",
    )  # fmt: skip
    # What OpenAI's clients may send beside these. The answer says what was made of it.
    background: Literal["auto", "opaque"] = "auto"
    quality: Literal["auto", "low", "medium", "high", "standard", "hd"] = Field(
        "auto", description="Without effect: `steps` decides. Answers say `auto`."
    )
    user: Name = Field("", description="Neither used nor recorded.")
    safety_identifier: Name = Field("", description="Neither used nor recorded.")

    @model_validator(mode="before")
    @classmethod
    def _no_links(cls, value: Any) -> Any:  # noqa: ANN401 - whatever was sent
        if isinstance(value, dict) and value.get("response_format") == "url":
            words = "Pictures are not kept, so there is no URL to give; ask for b64_json."
            raise Refusal("invalid_value", words, {"field": "response_format"})
        return value


class EditAsk(GenerationAsk):
    """A request for pictures that start from one."""

    image: Photo = Field(description="Scaled to cover `size`, and cut alike on both sides.")
    mask: Photo | None = Field(None, description="Of the image's size; transparent: draw here.")
    strength: float = Field(0.8, gt=0, le=1, description="1 keeps nothing of the image.")


class PhotoAsk(Ask):
    """One photograph."""

    image: Photo


class PairAsk(Ask):
    """Two photographs, each of one person."""

    image_a: Photo
    image_b: Photo


class Problem(BaseModel):
    """What went wrong."""

    code: str = Field(description="One of a closed list; never renamed.")
    message: str = Field(description="For people: what, with which value, and the cure.")
    details: dict[str, Any]


class ErrorAnswer(BaseModel):
    """Every answer that is no success."""

    error: Problem
    request_id: str


class Usage(BaseModel):
    """OpenAI counts tokens; here there are none."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    input_tokens_details: dict[str, int] = {"image_tokens": 0, "text_tokens": 0}


class Account(BaseModel):
    """How pictures were drawn."""

    model: str = Field(description="NAME/version of what drew them.")
    seeds: list[int] = Field(description="One per picture: with it each can be drawn alone again.")
    queued_s: float
    drawing_s: float
    batch: int = Field(description="Pictures that were drawn together with these.")
    signed_by: Literal["own", "test", ""] = Field(
        description="Whose content credential they carry: the deployment's, that of a test root "
        "which nobody else believes, or none."
    )
    watermark: str = Field(description="What their pixels carry; empty: too small, or nothing.")


class Picture(BaseModel):
    """One picture."""

    b64_json: str


class ImagesAnswer(BaseModel):
    """OpenAI's answer, and an account of the drawing."""

    created: int
    data: list[Picture]
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    quality: Literal["auto"] = "auto"
    size: str
    usage: Usage = Usage()
    visage: Account


class Event(BaseModel):
    """One event of a streamed answer."""

    type: str
    b64_json: str
    created_at: int
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    quality: Literal["auto"] = "auto"
    size: str


class PartialEvent(Event):
    """An unfinished picture."""

    partial_image_index: int


class CompletedEvent(Event):
    """A finished picture."""

    usage: Usage = Usage()
    visage: Account


class FaceAnswer(BaseModel):
    """One face, in pixels of the upright photograph."""

    box_px: list[float] = Field(description="Left, top, right, bottom.")
    landmarks_px: list[tuple[float, float]]
    score: float
    area_share: float = Field(description="Of the photograph.")


class EmbeddedFace(FaceAnswer):
    """One face and its vector."""

    embedding: list[float]


class DetectAnswer(BaseModel):
    """The faces of a photograph, largest first."""

    width_px: int
    height_px: int
    detector: str
    faces: list[FaceAnswer]


class EmbedAnswer(DetectAnswer):
    """The faces of a photograph with their vectors."""

    faces: list[EmbeddedFace]  # type: ignore[assignment]
    embedder: str
    metric: Literal["l2", "cosine"] = Field(description="How vectors are compared.")
    same_person_below: float


class VerifyAnswer(BaseModel):
    """Whether two photographs show one person."""

    distance: float
    threshold: float
    same_person: bool
    embedder: str
    metric: Literal["l2", "cosine"]


class ModelAnswer(BaseModel):
    """What can be asked for by name."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "visage"


class ModelsAnswer(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelAnswer]


class HealthAnswer(BaseModel):
    """How it is."""

    status: Literal["live", "ready"]
