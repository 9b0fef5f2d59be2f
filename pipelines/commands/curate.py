"""``visage curate RECIPE``: what the command line asks, and what it answers."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from infra.configuration import to_yaml
from pipelines.commands.flags import is_recipe_of, list_recipes, parse, starting_recipe
from pipelines.recipes import RECIPES, Recipe, recipe
from pipelines.video.recipes import RECIPES as VIDEO_RECIPES
from pipelines.video.recipes import VideoRecipe
from pipelines.video.recipes import recipe as video_recipe

if TYPE_CHECKING:
    from pipelines.record import Result
    from pipelines.sources import Listing

HELP = """\
usage: visage curate RECIPE --source.path PATH [--store STORE] [settings]

Carry out a recipe: seed -> ingest -> keep -> dedupe -> caption -> people -> export, then a
report.
The same command again does nothing twice; after a crash it goes on. With --retry-errors
timeout,http_5xx the rows of a finished run that ended so are tried again, and no others; with
--refresh its servers are asked for other versions of what they sent.

Videos go another way: seed -> watch -> clips -> keep -> dedupe -> people -> pairs -> export.

recipes (or the path of a recipe's YAML file):
{recipes}

`visage curate RECIPE --help` lists every setting of a recipe with its value.
"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Carry out a recipe: seed, ingest, keep, dedupe, caption, people, export, then a report."""

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


@dataclass(frozen=True, kw_only=True)
class VideoArguments:
    """Carry out a recipe for videos: seed, watch, clips, keep, dedupe, people, pairs, export."""

    recipe: Annotated[VideoRecipe, tyro.conf.arg(name="")]
    store: str = "store"
    """Folder that holds runs; every machine that works must see it."""
    address: str = ""
    """A Ray cluster to work on; empty: RAY_ADDRESS, or this machine."""
    json: bool = False
    """End with one JSON object on the last line."""
    dry_run: bool = False
    """Print the plan and the resolved recipe, and stop."""


def main(arguments: list[str]) -> int:
    """Parse, plan, run, tell."""
    if not arguments or arguments[0].startswith("-"):
        return list_recipes(HELP, RECIPES | VIDEO_RECIPES, arguments)
    default = starting(arguments[0])
    prog = f"visage curate {arguments[0]}"
    return carry_out(parse(type(default), default, arguments[1:], prog))


def starting(name: str) -> Arguments | VideoArguments:
    """Return what a recipe, or a YAML file, asks before flags change it.

    Raises:
        UnknownRecipe: There is no such recipe or file.
    """
    if is_recipe_of(name, VIDEO_RECIPES, key="video"):
        videos = starting_recipe(name, video_recipe, lambda name: VideoRecipe(name=name))
        return VideoArguments(recipe=videos)
    return Arguments(recipe=starting_recipe(name, recipe, lambda name: Recipe(name=name)))


def carry_out(arguments: Arguments | VideoArguments) -> int:
    """Run what was parsed, and say how it ended."""
    console = Console(stderr=arguments.json, highlight=False)
    if isinstance(arguments, VideoArguments):
        from pipelines.video import curate as videos

        if arguments.dry_run:
            show(
                arguments, *videos.plan(arguments.recipe), videos.jobs_of(arguments.recipe), console
            )
            return 0
        result: Result = videos.curate_videos(
            arguments.recipe, arguments.store, console, arguments.address
        )
        return tell(result, arguments, console)
    from pipelines.curate import curate, jobs_of, plan
    from pipelines.retry import chosen

    retry_errors = chosen(arguments.retry_errors)
    if arguments.dry_run:
        show(arguments, *plan(arguments.recipe), jobs_of(arguments.recipe), console)
        return 0
    result = curate(
        arguments.recipe,
        arguments.store,
        console,
        arguments.address,
        retry_errors,
        arguments.refresh,
    )
    return tell(result, arguments, console)


def show(
    arguments: Arguments | VideoArguments,
    listing: "Listing",
    run: str,
    jobs: Sequence[str],
    console: Console,
) -> None:
    """Print the plan of a run, and its resolved recipe."""
    if listing.kind in ("table", "urls"):
        contact = arguments.recipe.fetch.contact or "nobody yet: see --fetch.contact"
        console.print(f"contact  {contact}", markup=False)
    console.print(
        f"run      {run}\nstore    {arguments.store}\n"
        f"source   {listing.root} ({listing.kind}, files: {len(listing.files)})\n"
        f"jobs     {' -> '.join(jobs)}\n\n"
        f"{to_yaml(arguments.recipe)}",
        markup=False,
        soft_wrap=True,
    )


def tell(result: "Result", arguments: Arguments | VideoArguments, console: Console) -> int:
    """Say where the result is, and all of it as JSON where that is asked for."""
    console.print(f"\nreport   {result.report}\nrun      {result.path}", markup=False)
    if arguments.json:
        sys.stdout.write(json.dumps(asdict(result)) + "\n")
    return 0
