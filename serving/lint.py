"""A strict reader of Ray Serve's configuration, which itself ignores keys that it does not know.

``max_ongoing_requets: 5`` passes Serve's own validation and does nothing
(https://github.com/ray-project/ray/issues/61439); here it is an error that names the right key.
"""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeDeploySchema

from infra.errors import BadValue, UnknownKey


def lint(config: Mapping[str, Any]) -> None:
    """Check a configuration as ``serve deploy`` and KubeRay's ``serveConfigV2`` take it.

    Raises:
        UnknownKey: It has a key that Serve would ignore, or that is on its way out.
        BadValue: Serve would refuse it.
    """
    _walk(config, ServeDeploySchema, "")
    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise BadValue(where, problem["input"], f"{problem['msg']}.") from None


def _walk(given: Mapping[str, Any], schema: type[BaseModel], where: str) -> None:
    known = {name: field for name, field in schema.model_fields.items() if not _ending(field)}
    for key, value in given.items():
        if key not in known:
            raise UnknownKey(str(key), known, where or "Serve's configuration")
        path = f"{where}.{key}" if where else str(key)
        for below in _schemas(known[key].annotation):
            for item, place in _mappings(value, path):
                _walk(item, below, place)


def _ending(field: Any) -> bool:  # noqa: ANN401 - pydantic's FieldInfo
    return (field.description or "").startswith("[DEPRECATED]")


def _schemas(annotation: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401 - any annotation
    """Yield the models within ``Optional[...]``, ``Union[Dict, ...]``, ``List[...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _schemas(part)


def _mappings(value: Any, path: str) -> Iterator[tuple[Mapping[str, Any], str]]:  # noqa: ANN401
    if isinstance(value, Mapping):
        yield value, path
    elif isinstance(value, list):
        for i, item in enumerate(value):
            if isinstance(item, Mapping):
                yield item, f"{path}.{item.get('name', i)}"
