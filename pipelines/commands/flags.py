"""Flags over recipes: what every verb that takes a recipe shares."""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from infra.configuration import from_yaml
from infra.errors import UnknownKey

Arguments = TypeVar("Arguments")
Recipe = TypeVar("Recipe")


def list_recipes(text: str, recipes: Mapping[str, Callable[[], Any]], arguments: list[str]) -> int:
    """Write a verb's help with its recipes; return the exit code."""
    lines = [f"  {n:<20} {(m.__doc__ or '').splitlines()[0]}" for n, m in recipes.items()]
    sys.stdout.write(text.format(recipes="\n".join(lines)))
    return 0 if arguments and arguments[0] in ("-h", "--help") else 2


def is_recipe_of(name: str, recipes: Mapping[str, Callable[[], Any]], *, key: str) -> bool:
    """Tell whether a recipe's name, or a YAML file that holds ``key``, is one of these."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return name in recipes
    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return False  # which is said where the file is read
    return isinstance(held, dict) and key in held


def starting_recipe(
    name: str, look_up: Callable[[str], Recipe], blank: Callable[[str], Recipe]
) -> Recipe:
    """Return the recipe of that name, or the one that a YAML file describes.

    Raises:
        UnknownRecipe: There is no such recipe or file.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return from_yaml(path, blank(path.stem))
    return look_up(name)


def parse(kind: type[Arguments], default: Arguments, arguments: list[str], prog: str) -> Arguments:
    """Lay the command line over default arguments.

    Raises:
        UnknownKey: A flag is not known; the message offers the nearest one.
        BadValue: A setting has a value that cannot work.
    """
    known = set(_flags(default)) | {"--help"}
    for argument in arguments:
        flag = argument.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in known:
            raise UnknownKey(flag, known, f"`{prog}`")
    return tyro.cli(kind, default=default, args=arguments, prog=prog)


def _flags(settings: Any, prefix: str = "") -> Iterator[str]:  # noqa: ANN401 - any dataclass
    """Yield the flags that a dataclass of settings has; a field called recipe has no prefix."""
    for entry in fields(settings):
        value, name = getattr(settings, entry.name), entry.name.replace("_", "-")
        if is_dataclass(value):
            yield from _flags(value, prefix if entry.name == "recipe" else f"{prefix}{name}.")
        else:
            yield f"--{prefix}{name}"
            if isinstance(value, bool):
                yield f"--{prefix}no-{name}"
