"""``visage prepare RECIPE``: a curated corpus into training features."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from pipelines.commands import prepare_video
from pipelines.commands.flags import is_recipe_of, list_recipes, parse, starting_recipe
from pipelines.features.recipes import RECIPES, PrepareRecipe, recipe
from pipelines.video.prepare_recipes import RECIPES as VIDEO_RECIPES

if TYPE_CHECKING:
    from pipelines.features.finish import Prepared

_TRAINS = {
    "lfw64": "lfw64",
    "tiny": "tiny",
    "sd15": "ip_adapter_faceid_sd15",
    "sdxl": "ip_adapter_faceid_sdxl_8xh200",
}
"""The training recipe that goes with each of ours."""

HELP = """\
usage: visage prepare RECIPE --corpus RUN --out FOLDER [settings]

Turn a corpus that `visage curate` exported, of pictures or of videos, into training features,
exactly once.

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
    gpus_per_task: float = 0.0
    """GPUs that each task takes: 0.25 lets four share one; 0: everything on CPUs."""
    json: bool = False
    """End with one JSON object on the last line."""


def main(arguments: list[str]) -> int:
    """Parse, prepare, tell."""
    if not arguments or arguments[0].startswith("-"):
        return list_recipes(HELP, RECIPES | VIDEO_RECIPES, arguments)
    if is_recipe_of(arguments[0], VIDEO_RECIPES, key="frames"):
        return prepare_video.main(arguments)
    base = starting_recipe(arguments[0], recipe, lambda name: PrepareRecipe(name=name))
    default = Arguments(recipe=base)
    asked = parse(Arguments, default, arguments[1:], f"visage prepare {arguments[0]}")
    from pipelines.prepare import prepare

    console = Console(stderr=asked.json, highlight=False)
    done = prepare(asked.recipe, asked.out, console, asked.address, asked.gpus_per_task)
    said = (
        f"{done.samples:,} samples of {done.people:,} people are in {done.path}; "
        f"{done.left_out:,} rows have no face."
    )
    trains = _TRAINS.get(asked.recipe.name, "RECIPE")
    lines = [said, *_remarks(done, asked.recipe)]
    prepare_video.end(console, lines, trains, done, as_json=asked.json)
    return 0


def _remarks(done: "Prepared", recipe: PrepareRecipe) -> list[str]:
    """Say what a user may not expect, with its cure."""
    said: list[str] = []
    if done.nobody:
        said.append(f"{done.nobody:,} rows were left out: their main face is of no identity.")
    if done.bad_embedding:
        said.append(
            f"{done.bad_embedding:,} rows were left out: their identity vectors hold NaN or "
            "infinity."
        )
    if recipe.pairs:
        said.append(
            f"{done.paired:,} samples are drawn from photographs that they are paired with "
            f"({done.pairs:,} pairs); the other {done.samples - done.paired:,} from any other of "
            "the same person, or from themselves."
        )
    if done.too_small:
        said.append(
            f"{done.too_small:,} rows were left out: they would be enlarged more than "
            f"{recipe.max_enlarge:g} times (--max-enlarge)."
        )
    if done.enlarged:
        said.append(f"{done.enlarged:,} pictures were enlarged; they are softer than the others.")
    if done.cut_captions:
        said.append(
            f"{done.cut_captions:,} captions are longer than {recipe.text_encoder} reads; "
            "their ends were cut off."
        )
    return said
