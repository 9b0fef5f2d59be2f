"""Recipes as plain data: to YAML and back, strictly.

Works for nested frozen dataclasses whose fields are numbers, strings, booleans, literals and
tuples of these: what a recipe may be made of.
"""

import dataclasses
import hashlib
import json
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from infra.errors import BadValue, UnknownKey, UnknownRecipe

T = TypeVar("T")


def to_dict(value: Any) -> Any:  # noqa: ANN401 - any field of a recipe
    """Return a recipe, or part of it, as dictionaries, lists and scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [to_dict(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_dict(item) for key, item in value.items()}
    return value


def named(name: str, recipes: Mapping[str, Callable[[], T]]) -> T:
    """Make the recipe of that name.

    Raises:
        UnknownRecipe: No recipe has that name; the message offers the nearest one.
    """
    if name not in recipes:
        raise UnknownRecipe(name, recipes)
    return recipes[name]()


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """Name nested settings with dots, as the command line does."""
    named: list[tuple[str, object]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            named += flat(value, f"{prefix}{key}.")
        else:
            named.append((f"{prefix}{key}", value))
    return named


def to_yaml(recipe: Any) -> str:  # noqa: ANN401 - any recipe
    """Return a recipe as YAML, in the order of its fields."""
    return yaml.safe_dump(to_dict(recipe), sort_keys=False, allow_unicode=True, width=100)


def digest(*parts: Any) -> str:  # noqa: ANN401 - anything to_dict takes
    """Return 16 hex digits that change when any part changes."""
    words = json.dumps([to_dict(part) for part in parts], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def from_yaml(path: Path, base: T) -> T:
    """Read a recipe from a YAML file; what the file leaves out is as in ``base``.

    Raises:
        BadValue: The file is no YAML mapping, or a value has the wrong type.
        UnknownKey: The file has a setting that the recipe has not.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadValue("recipe", str(path), f"it is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise BadValue("recipe", str(path), "it must hold settings, such as `keep: {...}`.")
    return overlay(base, data, str(path))


def overlay(base: T, data: Mapping[str, Any], where: str) -> T:
    """Return ``base`` with the settings of ``data``, checked key by key and type by type."""
    assert dataclasses.is_dataclass(base)
    known = [f.name for f in dataclasses.fields(base)]
    hints = get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for key, value in data.items():
        if key not in known:
            raise UnknownKey(str(key), known, where)
        held = getattr(base, key)
        if dataclasses.is_dataclass(held):
            if not isinstance(value, Mapping):
                raise BadValue(key, value, f"{where} must give settings below it.")
            changes[key] = overlay(held, value, f"{where}: {key}")
        else:
            changes[key] = _typed(f"{where}: {key}", value, hints[key])
    return dataclasses.replace(base, **changes)  # type: ignore[type-var]


def _typed(key: str, value: Any, wanted: Any) -> Any:  # noqa: ANN401 - any field
    """Check one scalar or tuple against its annotation."""
    origin = get_origin(wanted)
    if origin is Literal:
        if value not in get_args(wanted):
            raise BadValue(key, value, f"choose among {get_args(wanted)}.")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise BadValue(key, value, "give a list.")
        return tuple(_typed(key, item, get_args(wanted)[0]) for item in value)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in get_args(wanted):
            return None
        wanted = next(a for a in get_args(wanted) if a is not type(None))
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise BadValue(key, value, f"give a value of type {wanted.__name__}.")
    return value
