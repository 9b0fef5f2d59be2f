"""``visage deploy``: a released model behind a door."""

import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.live import Live

from infra.errors import BadValue
from pipelines.commands.flags import list_recipes, parse, starting_recipe
from serving.recipes import RECIPES, ServeRecipe, recipe

if TYPE_CHECKING:
    from pipelines.deploy import Plan

HELP = """\
usage: visage deploy [RECIPE] --model NAME@champion --local [settings]
       visage deploy [RECIPE] --model NAME@champion --address CLUSTER [--canary 10] [--follow]
       visage deploy --status | --stop [--address CLUSTER]

Serve a model that `visage release` registered, or `--model file:FOLDER`; without a model, faces
only. --local serves on this machine until Ctrl-C, and then finishes what it has begun. On a cluster
the same command again changes what is deployed without dropping a request.

recipes (or the path of a recipe's YAML file); default: local
{recipes}
"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Serve a model."""

    recipe: Annotated[ServeRecipe, tyro.conf.arg(name="")]
    local: bool = False
    """Start a Ray of its own on this machine, and stay."""
    address: str = ""
    """Of the Ray cluster; empty: RAY_ADDRESS."""
    canary: float = 0.0
    """Percent of the requests that the new version draws until it has proven itself; 0: it
    replaces the old one at once."""
    canary_requests: int = 200
    """Requests that the new version must have answered before it is judged."""
    canary_s: float = 1800.0
    """How long that may take."""
    follow: bool = False
    """Stay, and serve what the alias points to whenever it moves."""
    poll_s: float = 30.0
    """How often the alias is looked up."""
    timeout_s: float = 600.0
    """How long replicas may take to become ready."""
    status: bool = False
    """Show what is deployed."""
    stop: bool = False
    """Take it away."""
    json: bool = False
    """End with one JSON object on the last line."""


def main(arguments: list[str]) -> int:
    """Parse, deploy, tell."""
    if not arguments or arguments[0] in ("-h", "--help"):
        return list_recipes(HELP, RECIPES, arguments)
    name = arguments[0] if not arguments[0].startswith("-") else ""
    base = starting_recipe(name or "local", recipe, lambda name: ServeRecipe(name=name))
    prog = f"visage deploy {name}".rstrip()
    asked = parse(Arguments, Arguments(recipe=base), arguments[1 if name else 0 :], prog)
    console = Console(stderr=asked.json, highlight=False)
    if asked.status or asked.stop:
        return _look(asked, console)
    return _deploy(asked, console)


def _deploy(asked: Arguments, console: Console) -> int:
    from pipelines.deploy import ended_by_signals, joined, plan, tell
    from pipelines.endpoints import deployed

    if asked.local and (asked.canary or asked.address):
        cure = "it starts anew; give --canary and --address to a second command beside it."
        raise BadValue("--local", True, cure)
    if not 0 <= asked.canary <= 50:
        raise BadValue("--canary", asked.canary, "give 0 to 50 percent.")
    began = time.monotonic()
    made = plan(asked.recipe)
    tell(made, console)
    with joined(asked.address, made.asked if asked.local else None), ended_by_signals():
        try:
            return _serve(asked, made, console, began)
        except KeyboardInterrupt:
            if not asked.local:
                raise
            console.print("\nfinishing what was begun")
            return 0
        finally:
            if asked.local:
                deployed.shutdown()


def _serve(asked: Arguments, made: "Plan", console: Console, began: float) -> int:
    from pipelines.deploy import Deployment, attend, examples, here, up

    if asked.canary:
        return _try(asked, made, console)
    with console.status("starting: loading models, warming up"):
        url = up(made, asked.timeout_s)
    done = Deployment(
        url=url,
        model=made.asked.model,
        version=made.reference,
        ready_s=round(time.monotonic() - began, 1),
    )
    console.print(f"\nready in {done.ready_s:.0f} s: [bold]{url}[/]\n", soft_wrap=True)
    console.print(examples(done, made), soft_wrap=True, markup=False)
    address = f" --address {here()}"
    console.print(
        f"\nnext  visage deploy --status{address}\n      visage deploy --stop{address}",
        soft_wrap=True, markup=False,
    )  # fmt: skip
    if asked.json:
        sys.stdout.write(json.dumps(asdict(done)) + "\n")
        sys.stdout.flush()
    if asked.local or asked.follow:
        if asked.local:
            console.print("\nCtrl-C ends it, when what was begun is finished.")
        attend(made, console, follow=asked.follow, poll_s=asked.poll_s)
    return 0


def _try(asked: Arguments, made: "Plan", console: Console) -> int:
    from pipelines.endpoints.rollout import Tally, attempt, table

    with Live(console=console, transient=True) as live:

        def watch(served: Tally, candidate: Tally) -> None:
            live.update(table(served, candidate))

        verdict = attempt(
            made, percent=asked.canary, least=asked.canary_requests, within_s=asked.canary_s,
            timeout_s=asked.timeout_s, watch=watch,
        )  # fmt: skip
    if verdict is None:
        console.print(f"\n{made.reference} is served already.")
    else:
        console.print(table(verdict.served, verdict.candidate))
        stays = verdict.candidate if verdict.promoted else verdict.served
        console.print(f"\n{verdict.reason}: {stays.model} is served.", soft_wrap=True)
    if asked.json:
        sys.stdout.write(json.dumps(asdict(verdict) if verdict else None) + "\n")
    return 0 if verdict is None or verdict.promoted else 1


def _look(asked: Arguments, console: Console) -> int:
    from pipelines.deploy import joined
    from pipelines.endpoints import deployed

    with joined(asked.address):
        now = deployed.state()
        if asked.stop and now.status:
            deployed.stop()
            now = deployed.State(status="")
    if asked.json:
        sys.stdout.write(json.dumps(asdict(now)) + "\n")
        return 0
    served = now.served.get("model", "faces only")
    console.print(f"{now.status or 'nothing is deployed'}{f', {served}' if now.status else ''}")
    for name, states in now.replicas.items():
        console.print(f"  {name:<16}{', '.join(f'{n} {state}' for state, n in states.items())}")
    if now.trial:
        share = f"{now.trial['percent']:g} % of the requests"
        console.print(f"  {now.trial['candidate']} is tried with {share}")
    return 0
