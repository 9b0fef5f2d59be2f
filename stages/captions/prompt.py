"""What models are asked: data, in ``prompts/``, known by the hash of the file."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from string import Template
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, create_model

_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_NEAR_CHARS = 80


class BadAnswer(Exception):
    """An answer that is not what the prompt asks for; its words tell the model why."""


@dataclass(frozen=True)
class Prompt:
    """One file of ``prompts/``."""

    name: str
    sha256: str
    system: str
    user: str
    fields: dict[str, str]
    """The keys of the JSON object that is asked for, and what each holds."""

    @property
    def tag(self) -> str:
        """The short form that every row carries."""
        return f"{self.name}@{self.sha256[:12]}"

    def told(self, **words: str) -> str:
        """Return what the model is told, with ``words`` put into it."""
        return Template(self.user).substitute(words)

    @cached_property
    def _shape(self) -> type[BaseModel]:
        wanted: dict[str, Any] = {
            name: (_Text, Field(description=about)) for name, about in self.fields.items()
        }
        return create_model(self.name, __config__=ConfigDict(extra="forbid", strict=True), **wanted)

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the answer, for servers that can keep a model to it."""
        shape = self._shape.model_json_schema()
        for each in shape["properties"].values():
            each.pop("minLength")  # not in the part of JSON Schema that all of them know
        return shape

    def read(self, answer: str) -> dict[str, str]:
        """Read an answer; one in a Markdown fence, or behind a model's thoughts, counts too.

        Raises:
            BadAnswer: It is no JSON object, or not of the schema.
        """
        text = answer.rpartition("</think>")[2]
        start, end = text.find("{"), text.rfind("}")
        if start < 0 or end < start:
            near = text.strip()[:_NEAR_CHARS]
            raise BadAnswer(f"there is no whole JSON object in {near!r}")
        try:
            held = self._shape.model_validate_json(text[start : end + 1])
        except ValidationError as problem:
            whys = [
                f"{'.'.join(map(str, error['loc']))}: {error['msg']}".removeprefix(": ")
                for error in problem.errors()
            ]
            raise BadAnswer("; ".join(whys)) from None
        read: dict[str, str] = held.model_dump()
        return read


@lru_cache(maxsize=16)
def prompt(name: str) -> Prompt:
    """Read a prompt by its file's name."""
    data = files("stages").joinpath("captions", "prompts", f"{name}.yaml").read_bytes()
    held = yaml.safe_load(data)
    return Prompt(name, hashlib.sha256(data).hexdigest(), **held)


def repair(why: str, asked: Prompt) -> str:
    """Return what a model is told whose answer was not of the schema."""
    keys = json.dumps(list(asked.fields))
    return (
        f"That was not it: {why}. Answer again, with one whole JSON object that has exactly the "
        f"keys {keys}, each a non-empty string, and with nothing else."
    )
