"""``visage curate RECIPE``: what the command line asks, and what it answers."""

import json
import sys
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro
from rich.console import Console

from infra.configuration import to_yaml
from pipelines.commands.flags import list_recipes, parse, starting_recipe
from pipelines.recipes import RECIPES, Recipe, recipe

HELP = """\
usage: visage curate RECIPE --source.path PATH [--store STORE] [settings]

Carry out a recipe: seed -> ingest -> keep -> dedupe -> people -> export, then a report.
The same command again does nothing twice; after a crash it goes on. With --retry-errors
timeout,http_5xx the rows of a finished run that ended so are tried again, and no others; with
--refresh its servers are asked for other versions of what they sent.

recipes (or the path of a recipe's YAML file):
{recipes}

`visage curate RECIPE --help` lists every setting of a recipe with its value.
"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Carry out a recipe: seed, ingest, keep, dedupe, people, export, then a report."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    store: str = "store"
    """Folder or s3:// prefix that holds runs."""
    address: str = ""
    """A Ray cluster to work on; empty: RAY_ADDRESS, or this machine."""
    retry_errors: str = ""
    """Errors of a finished run, such as timeout,http_5xx: its rows that ended so are fetched and
    looked at again, all others stay, and what follows from them is redone."""
    refresh: bool = False
    """Ask the servers of a finished run for other versions of its pictures (If-None-Match,
    If-Modified-Since). What is the same stays; what the server says is gone becomes an error."""
    json: bool = False
    """End with one JSON object on the last line."""
    dry_run: bool = False
    """Print the plan and the resolved recipe, and stop."""


def main(arguments: list[str]) -> int:
    """Parse, plan, run, tell."""
    if not arguments or arguments[0].startswith("-"):
        return list_recipes(HELP, RECIPES, arguments)
    base = starting_recipe(arguments[0], recipe, lambda name: Recipe(name=name))
    default = Arguments(recipe=base)
    return carry_out(parse(Arguments, default, arguments[1:], f"visage curate {arguments[0]}"))


def carry_out(arguments: Arguments) -> int:
    """Run what was parsed, and say how it ended."""
    from pipelines.curate import curate, from_web, plan
    from pipelines.retry import chosen

    retry_errors = chosen(arguments.retry_errors)
    console = Console(stderr=arguments.json, highlight=False)
    if arguments.dry_run:
        listing, run = plan(arguments.recipe)
        if from_web(listing):
            contact = arguments.recipe.fetch.contact or "nobody yet: see --fetch.contact"
            console.print(f"contact  {contact}", markup=False)
        console.print(
            f"run      {run}\nstore    {arguments.store}\n"
            f"source   {listing.root} ({listing.kind}, files: {len(listing.files)})\n"
            "jobs     seed -> ingest -> keep -> dedupe -> people -> export\n\n"
            f"{to_yaml(arguments.recipe)}",
            markup=False,
        )
        return 0
    result = curate(
        arguments.recipe,
        arguments.store,
        console,
        arguments.address,
        retry_errors,
        arguments.refresh,
    )
    console.print(f"\nreport   {result.report}\nrun      {result.path}", markup=False)
    if arguments.json:
        sys.stdout.write(json.dumps(asdict(result)) + "\n")
    return 0
