"""``visage prepare RECIPE`` for videos: curated clips into training features."""

import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from pipelines.commands.flags import parse, starting_recipe
from pipelines.video.prepare_recipes import VideoPrepareRecipe, recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipelines.features.finish import Prepared
    from pipelines.video.prepare import PreparedVideos

_TRAINS = {
    "video_tiny": "video_tiny",
    "video_tiny_cogvideox": "video_tiny",
    "animatediff": "id_animator_sd15_8xh200",
    "cogvideox": "consis_id_cogvideox_5b_8xh200",
}
"""The training recipe that goes with each of ours."""


@dataclass(frozen=True, kw_only=True)
class VideoArguments:
    """Turn curated clips into training features."""

    recipe: Annotated[VideoPrepareRecipe, tyro.conf.arg(name="")]
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
    base = starting_recipe(arguments[0], recipe, lambda name: VideoPrepareRecipe(name=name))
    default = VideoArguments(recipe=base)
    asked = parse(VideoArguments, default, arguments[1:], f"visage prepare {arguments[0]}")
    from pipelines.video.prepare import prepare_videos

    console = Console(stderr=asked.json, highlight=False)
    done = prepare_videos(asked.recipe, asked.out, console, asked.address, asked.gpus_per_task)
    said = (
        f"{done.samples:,} samples of {done.clips:,} clips, of {done.people:,} people, are in "
        f"{done.path}."
    )
    trains = _TRAINS.get(asked.recipe.name, "RECIPE")
    end(console, [said, *_remarks(done, asked.recipe)], trains, done, as_json=asked.json)
    return 0


def end(
    console: Console,
    said: "Sequence[str]",
    trains: str,
    done: "Prepared | PreparedVideos",
    *,
    as_json: bool,
) -> None:
    """Say how it ended, and what comes next.

    Args:
        console: Where people read.
        said: What to tell them.
        trains: The training recipe that goes with it.
        done: How it ended.
        as_json: Whether programs read too.
    """
    for line in said:
        console.print(line, soft_wrap=True)
    console.print(f"\nNext: visage train {trains} --data.path {done.path}", soft_wrap=True)
    if as_json:
        sys.stdout.write(json.dumps(asdict(done)) + "\n")


def _remarks(done: "PreparedVideos", recipe: VideoPrepareRecipe) -> list[str]:
    """Say what a user may not expect, with its cure."""
    from pipelines.video.prepare import REASONS

    said = [
        f"{count:,} clips or windows {REASONS[reason][0]} were left out. {REASONS[reason][1]}"
        for reason, count in done.left_out.items()
    ]
    if done.alone:
        said.append(
            f"{done.alone:,} samples are the only ones of their person: their own face is shown "
            "for them."
        )
    if done.still:
        said.append(f"In {done.still:,} samples nothing of the person moves.")
    if done.cut_captions:
        said.append(
            f"{done.cut_captions:,} captions are longer than {recipe.text_encoder} reads; "
            "their ends were cut off."
        )
    return said
