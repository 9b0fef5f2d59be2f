"""``visage train RECIPE``: prepared features into a model."""

import json
import sys
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro
from rich.console import Console

from pipelines.commands.flags import list_recipes, parse, starting_recipe
from training.recipes import RECIPES, recipe
from training.settings import TrainRecipe

HELP = """\
usage: visage train RECIPE --data.path FOLDER [--out FOLDER] [settings]

Train a recipe on features that `visage prepare` wrote: as one process on this machine, or on many
workers of a Ray cluster (--scale.workers, --scale.zero-stage). The same command again goes on from
the newest checkpoint, on any number of workers.

recipes (or the path of a recipe's YAML file):
{recipes}
"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a recipe on prepared features."""

    recipe: Annotated[TrainRecipe, tyro.conf.arg(name="")]
    out: str = "trained"
    """Folder for runs; of many workers on several machines, on a disk that they share."""
    address: str = ""
    """Of the Ray cluster; empty: RAY_ADDRESS, or a Ray of its own. Only many workers need one."""
    json: bool = False
    """End with one JSON object on the last line."""


def main(arguments: list[str]) -> int:
    """Parse, train, tell."""
    if not arguments or arguments[0].startswith("-"):
        return list_recipes(HELP, RECIPES, arguments)
    base = starting_recipe(arguments[0], recipe, lambda name: TrainRecipe(name=name))
    default = Arguments(recipe=base)
    asked = parse(Arguments, default, arguments[1:], f"visage train {arguments[0]}")
    from pipelines.train import train

    console = Console(stderr=asked.json, highlight=False)
    result = train(asked.recipe, asked.out, console, asked.address)
    console.print(f"\nrun      {result.path}\nweights  {result.export}", soft_wrap=True)
    if asked.json:
        sys.stdout.write(json.dumps(asdict(result)) + "\n")
    return 0
