"""``visage train RECIPE``: prepared features into a model."""

import json
import sys
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro
from rich.console import Console

from infra.errors import BadValue
from pipelines.commands.flags import list_recipes, parse, starting_recipe
from pipelines.evaluation.tables import VIDEO_WORDS, WORDS
from training.loss_settings import LOSSES
from training.recipes import RECIPES, recipe
from training.settings import TrainRecipe

HELP = """\
usage: visage train RECIPE --data.path FOLDER [--out FOLDER] [settings]

Train a recipe on features that `visage prepare` wrote: as one process on this machine, or on many
workers of a Ray cluster (--scale.workers, --scale.zero-stage). The same command again goes on from
the newest checkpoint, on any number of workers.

exit codes: 0 trained to the last step; 130 ended before it by Ctrl-C or SIGTERM, after a
checkpoint; 2 bad input; 1 failure.

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


INTERRUPTED = 130
"""Exit code of a run that was ended before its last step: what needs a model must not go on."""


def main(arguments: list[str]) -> int:
    """Parse, train, tell; return the exit code."""
    if not arguments or arguments[0].startswith("-"):
        return list_recipes(HELP, RECIPES, arguments)
    base = starting_recipe(arguments[0], recipe, lambda name: TrainRecipe(name=name))
    default = Arguments(recipe=base)
    asked = parse(Arguments, default, arguments[1:], f"visage train {arguments[0]}")
    _check_best(asked.recipe)
    from pipelines.train import train

    console = Console(stderr=asked.json, highlight=False)
    result = train(asked.recipe, asked.out, console, asked.address)
    console.print(f"\nrun      {result.path}\nweights  {result.export}", soft_wrap=True)
    if asked.json:
        sys.stdout.write(json.dumps(asdict(result)) + "\n")
    return 0 if result.step >= asked.recipe.steps else INTERRUPTED


def _check_best(recipe: TrainRecipe) -> None:
    """Refuse now what no checkpoint would have; another recipe's name is another run's.

    Raises:
        BadValue: ``keep_best`` names a score that training does not measure, or not as asked.
    """
    best = recipe.keep_best
    if best == "loss_gain" and not recipe.validate_people:
        cure = "held-out people give it; set validate_people to 2 or more."
        raise BadValue("keep_best", best, cure)
    if best in (WORDS.keys() | VIDEO_WORDS.keys()) - {"loss_gain", *LOSSES}:
        cure = "only `visage evaluate` measures it. Give a loss, such as mse, or loss_gain with "
        raise BadValue("keep_best", best, cure + "validate_people.")
