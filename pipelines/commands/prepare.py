"""``visage prepare RECIPE``: a curated corpus into training features."""

import json
import sys
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro
from rich.console import Console

from pipelines.commands.flags import list_recipes, parse, starting_recipe
from pipelines.prepare_recipes import RECIPES, PrepareRecipe, recipe

HELP = """\
usage: visage prepare RECIPE --corpus RUN --out FOLDER [settings]

Turn a corpus that `visage curate` exported into training features, exactly once.

recipes (or the path of a recipe's YAML file):
{recipes}
"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Turn a curated corpus into training features."""

    recipe: Annotated[PrepareRecipe, tyro.conf.arg(name="")]
    out: str = "features"
    """Folder for the features."""
    address: str = ""
    """A Ray cluster to work on; empty: RAY_ADDRESS, or this machine."""
    json: bool = False
    """End with one JSON object on the last line."""


def main(arguments: list[str]) -> int:
    """Parse, prepare, tell."""
    if not arguments or arguments[0].startswith("-"):
        return list_recipes(HELP, RECIPES, arguments)
    base = starting_recipe(arguments[0], recipe, lambda name: PrepareRecipe(name=name))
    default = Arguments(recipe=base)
    asked = parse(Arguments, default, arguments[1:], f"visage prepare {arguments[0]}")
    from pipelines.prepare import prepare

    console = Console(stderr=asked.json, highlight=False)
    done = prepare(asked.recipe, asked.out, console, asked.address)
    console.print(
        f"{done.samples:,} samples of {done.people:,} people are in {done.path}; "
        f"{done.left_out:,} rows have no face.\n\nNext: visage train lfw64 --data.path {done.path}",
        soft_wrap=True,
    )
    if asked.json:
        sys.stdout.write(json.dumps(asdict(done)) + "\n")
    return 0
