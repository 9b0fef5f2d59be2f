"""``visage curate RECIPE``: what the command line asks, and what it answers."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from infra.configuration import from_yaml, to_yaml
from infra.errors import UnknownKey
from pipelines.recipes import RECIPES, Recipe, recipe

HELP = """\
usage: visage curate RECIPE --source.path PATH [--store STORE] [settings]

Carry out a recipe: seed -> ingest -> keep -> dedupe -> export, then a report.
The same command again does nothing twice; after a crash it goes on.

recipes (or the path of a recipe's YAML file):
{recipes}

`visage curate RECIPE --help` lists every setting of a recipe with its value.
"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Carry out a recipe: seed, ingest, keep, dedupe, export, then a report."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    store: str = "store"
    """Folder or s3:// prefix that holds runs."""
    address: str = ""
    """A Ray cluster to work on; empty: RAY_ADDRESS, or this machine."""
    json: bool = False
    """End with one JSON object on the last line."""
    dry_run: bool = False
    """Print the plan and the resolved recipe, and stop."""


def main(arguments: list[str]) -> int:
    """Parse, plan, run, tell."""
    if not arguments or arguments[0].startswith("-"):
        lines = [f"  {n:<11} {(m.__doc__ or '').splitlines()[0]}" for n, m in RECIPES.items()]
        sys.stdout.write(HELP.format(recipes="\n".join(lines)))
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    name, rest = arguments[0], arguments[1:]
    return carry_out(parse(starting_recipe(name), rest, f"visage curate {name}"))


def starting_recipe(name: str) -> Recipe:
    """Return the recipe of that name, or the one that a YAML file describes.

    Raises:
        UnknownRecipe: There is no such recipe or file.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return from_yaml(path, Recipe(name=path.stem))
    return recipe(name)


def parse(base: Recipe, arguments: list[str], prog: str) -> Arguments:
    """Lay the command line over a recipe.

    Raises:
        UnknownKey: A flag is not known; the message offers the nearest one.
        BadValue: A setting has a value that cannot work.
    """
    default = Arguments(recipe=base)
    known = set(_flags(default)) | {"--help"}
    for argument in arguments:
        flag = argument.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in known:
            raise UnknownKey(flag, known, f"`{prog}`")
    return tyro.cli(Arguments, default=default, args=arguments, prog=prog)


def _flags(settings: Any, prefix: str = "") -> Iterator[str]:  # noqa: ANN401 - any dataclass
    """Yield the flags that a dataclass of settings has on the command line."""
    for entry in fields(settings):
        value, name = getattr(settings, entry.name), entry.name.replace("_", "-")
        if isinstance(value, Recipe):
            yield from _flags(value)
        elif is_dataclass(value):
            yield from _flags(value, f"{prefix}{name}.")
        else:
            yield f"--{prefix}{name}"
            if isinstance(value, bool):
                yield f"--{prefix}no-{name}"


def carry_out(arguments: Arguments) -> int:
    """Run what was parsed, and say how it ended."""
    from pipelines.curate import curate, plan

    console = Console(stderr=arguments.json, highlight=False)
    if arguments.dry_run:
        listing, run = plan(arguments.recipe)
        console.print(
            f"run      {run}\nstore    {arguments.store}\n"
            f"source   {listing.root} ({listing.kind}, files: {len(listing.files)})\n"
            "jobs     seed -> ingest -> keep -> dedupe -> export\n\n"
            f"{to_yaml(arguments.recipe)}",
            markup=False,
        )
        return 0
    result = curate(arguments.recipe, arguments.store, console, arguments.address)
    console.print(f"\nreport   {result.report}\nrun      {result.path}", markup=False)
    if arguments.json:
        sys.stdout.write(json.dumps(asdict(result)) + "\n")
    return 0
