"""``visage loop RECIPE``: from pictures to a released model."""

import json
import sys
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro
from rich.console import Console

from pipelines.commands.flags import list_recipes, parse, starting_recipe
from pipelines.loop_recipes import RECIPES, LoopRecipe, recipe

HELP = """\
usage: visage loop RECIPE --curate.source.path PATH [--store STORE] [settings]

Curate, prepare, train, evaluate and release, as one run with one report. The same command again
does nothing twice; after Ctrl-C, a crash or a failed step it goes on.

recipes (or the path of a recipe's YAML file):
{recipes}

`visage loop RECIPE --help` lists every setting of every step.
"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Curate, prepare, train, evaluate and release."""

    recipe: Annotated[LoopRecipe, tyro.conf.arg(name="")]
    store: str = "store"
    """Local folder for the run and those of its steps."""
    address: str = ""
    """A Ray cluster to work on; empty: RAY_ADDRESS, or this machine."""
    json: bool = False
    """End with one JSON object on the last line."""


def main(arguments: list[str]) -> int:
    """Parse, carry out, tell."""
    if not arguments or arguments[0].startswith("-"):
        return list_recipes(HELP, RECIPES, arguments)
    base = starting_recipe(arguments[0], recipe, lambda name: LoopRecipe(name=name))
    default = Arguments(recipe=base)
    asked = parse(Arguments, default, arguments[1:], f"visage loop {arguments[0]}")
    from pipelines.loop import loop
    from pipelines.loop_report import summary

    console = Console(stderr=asked.json, highlight=False)
    done = loop(asked.recipe, asked.store, console, asked.address)
    console.print()
    for name, step in done.steps.items():
        took = "done before" if step.reused else f"{step.seconds:,.1f} s"
        said = f"{name:<10}{took:<13}{summary(name, step.result)}"
        console.print(said, markup=False, soft_wrap=True)
    told = f"report    {done.path}/report.html\n\nNext: {done.deploy}"
    console.print(told, markup=False, soft_wrap=True)
    if asked.json:
        sys.stdout.write(json.dumps(asdict(done)) + "\n")
    return 0
