"""``visage loop RECIPE``: from pictures to a released model, and to an endpoint."""

import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from pipelines.commands.flags import list_recipes, parse, starting_recipe
from pipelines.loops.recipes import RECIPES, LoopRecipe, recipe

if TYPE_CHECKING:
    from pipelines.loop import Looped

HELP = """\
usage: visage loop RECIPE --curate.source.path PATH [--store STORE] [--deploy.serve] [settings]

Curate, prepare, train, evaluate and release, as one run with one report; with --deploy.serve also
deploy: to the cluster, or on this machine until Ctrl-C. The same command again does nothing twice;
after Ctrl-C, a crash or a failed step it goes on.

recipes (or the path of a recipe's YAML file):
{recipes}

`visage loop RECIPE --help` lists every setting of every step.
"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Curate, prepare, train, evaluate, release and deploy."""

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

    console = Console(stderr=asked.json, highlight=False)
    with loop(asked.recipe, asked.store, console, asked.address) as done:
        tell(done, console)
        if not done.url:
            console.print(f"\nNext: {done.deploy}", markup=False, soft_wrap=True)
        if asked.json:
            sys.stdout.write(json.dumps(asdict(done)) + "\n")
            sys.stdout.flush()
        if done.is_local:
            stay(done, console)
    return 0


def tell(done: "Looped", console: Console) -> None:
    """Say what each step took and gave, and what the scores cannot say."""
    from pipelines.loops.report import caution, summary

    console.print()
    for name, step in done.steps.items():
        took = "done before" if step.reused else f"{step.seconds:,.1f} s"
        said = f"{name:<10}{took:<13}{summary(name, step.result)}"
        console.print(said, markup=False, soft_wrap=True)
    console.print(f"report    {done.report}", markup=False, soft_wrap=True)
    if words := caution(done.steps["evaluate"].result):
        console.print(f"\n{words}", markup=False)


def stay(done: "Looped", console: Console) -> None:
    """Serve on this machine until Ctrl-C or SIGTERM."""
    from pipelines.deploy import Plan, attend, ended_by_signals
    from serving.recipes import local

    console.print(f"\n[bold]{done.url}[/] is served until Ctrl-C.", soft_wrap=True)
    with ended_by_signals():
        try:
            attend(Plan(asked=local(), version=None), console, follow=False, poll_s=1.0)
        except KeyboardInterrupt:
            console.print("\nfinishing what was begun")
