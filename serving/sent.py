"""Files as they are sent: base64 in JSON, or parts of a form; and whom a request is about."""

import base64
import binascii
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from serving.errors import Refusal

MAX_PHOTOS = 8
_DATA_URL = "data:image/"


def photo(value: Any) -> bytes:  # noqa: ANN401 - whatever was sent
    """Read a file that was sent: its bytes, or base64 of them, bare or as an image's data URL.

    Raises:
        Refusal: ``url_not_accepted`` or ``invalid_value``.
    """
    if isinstance(value, str):
        head, comma, rest = value.partition(",")
        if comma and head.startswith(_DATA_URL) and head.endswith(";base64"):
            value = rest
        elif "://" in value[:32] or value.startswith("data:"):
            raise Refusal("url_not_accepted", "Nothing is fetched for you; send the file itself.")
        try:
            value = base64.b64decode(value, validate=True)
        except (ValueError, binascii.Error):
            raise _no_file("it is not base64") from None
    if not isinstance(value, bytes):
        raise _no_file("it is no file")
    if not value:
        raise _no_file("it is empty")
    return value


def _no_file(why: str) -> Refusal:
    return Refusal("invalid_value", f"A picture cannot be read: {why}.", {"field": "picture"})


def _listed(value: Any) -> Any:  # noqa: ANN401 - whatever was sent
    return [value] if isinstance(value, (str, bytes)) else value


_FILE = {"type": "string", "contentEncoding": "base64", "description": "JPEG, PNG or WebP."}
Photo = Annotated[
    bytes,
    BeforeValidator(photo),
    WithJsonSchema(_FILE),
]
Photos = Annotated[list[Photo], BeforeValidator(_listed), Field(max_length=MAX_PHOTOS)]
PERSON_ID = re.compile(r"person_[0-9a-f]{24}")


def _photo_or_person(value: Any) -> bytes | str:  # noqa: ANN401 - whatever was sent
    is_person = isinstance(value, str) and PERSON_ID.fullmatch(value)
    return str(value) if is_person else photo(value)


_PERSON = {
    "type": "string",
    "pattern": f"^{PERSON_ID.pattern}$",
    "description": "An enrolled person, see /v1/people.",
}
Identity = Annotated[
    list[
        Annotated[
            bytes | str,
            BeforeValidator(_photo_or_person),
            WithJsonSchema({"anyOf": [_FILE, _PERSON]}),
        ]
    ],
    BeforeValidator(_listed),
    Field(max_length=MAX_PHOTOS),
]
