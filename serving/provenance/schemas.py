"""What is asked and answered about where pictures are from, and of anonymised photographs."""

from typing import Literal

from pydantic import BaseModel, Field

from serving.provenance.credentials import State
from serving.provenance.verdicts import Code
from serving.provenance.watermark import FOUND_SIGMA
from serving.schemas import Ask, Picture
from serving.sent import Identity, Photo
from serving.uploads import OutputFormat
from stages.anonymise import How


class AnonymiseAsk(Ask):
    """A photograph in which everybody is to be hidden, or everybody but one."""

    image: Photo
    identity: Identity = Field([], description="The one to leave: photographs, or a person's id.")
    how: How = Field("pixelate", description="What hiding begins with, where it is enough.")
    output_format: OutputFormat = "jpeg"
    output_compression: int | None = Field(None, ge=0, le=100, description="JPEG, WebP: quality.")


class AnonymisedAnswer(BaseModel):
    """A photograph in which people are hidden, saved anew and without metadata."""

    created: int
    data: list[Picture]
    output_format: OutputFormat
    size: str
    faces: int = Field(description="Found. What the detector does not see stays as it is.")
    hidden: int
    kept: bool = Field(description="Whether the one to leave was found.")
    distances: list[float] = Field(
        description="Of every hidden face from what it was, as the encoder measures now."
    )
    beyond: float = Field(description="What each of them exceeds.")
    embedder: str
    metric: Literal["l2", "cosine"]
    signed_by: Literal["own", "test", ""] = Field(description="See the account of a drawing.")


class MadeAnswer(BaseModel):
    """What a credential says; a claim, unless its state is `trusted`."""

    model: str
    adapter: str
    recipe: str = Field(description="Digest of the recipe that the model was trained by.")
    request_id: str
    watermark: str = Field(description="What the pixels are said to carry.")
    watermark_method: str


class CredentialAnswer(BaseModel):
    """A content credential (C2PA)."""

    state: State = Field(
        description="`trusted`: whole, by a signer whose root is believed here. `unknown_signer`: "
        "whole, by somebody else. `altered`: signed, but of other content. `forged`: signature or "
        "claims do not hold, or cannot be read."
    )
    signed_by: str
    problems: list[str] = Field(description="C2PA's codes of what does not hold.")
    made: MadeAnswer | None


class IssuedAnswer(BaseModel):
    """Whom a mark was issued for: told to that key, and to keys for `admin`."""

    key_id: str
    request_id: str
    issued: int = Field(description="Seconds since 1970.")


class MarkAnswer(BaseModel):
    """A mark in the pixels."""

    found: bool
    id: str = Field(description="Its 32 bits, as 8 hexadecimal digits; empty: none was found.")
    confidence_sigma: float = Field(
        description="Evidence above what unmarked pictures show, in their standard deviations; "
        f"from {FOUND_SIGMA:g} on a mark is found."
    )
    method: str = Field(description="What was looked for; empty: nothing marks pictures here.")
    strength: Literal["strong", "weak", "none"] = Field(
        description="`weak`: it survives saving, scaling and cropping, and nobody who means it ill."
    )
    large_enough: bool = Field(description="Whether pictures of this size are marked at all.")
    known: bool = Field(description="Whether the records know whom it was issued for.")
    issued: IssuedAnswer | None


class ProvenanceAnswer(BaseModel):
    """Where a picture is from, as far as it says."""

    verdict: Code
    sentence: str
    credential: CredentialAnswer
    watermark: MarkAnswer
