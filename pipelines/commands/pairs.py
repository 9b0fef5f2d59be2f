"""``visage pairs RUN``: photos of one person brought together for training."""

import json
import sys
from dataclasses import asdict, dataclass, field
from typing import Annotated

import tyro
from rich.console import Console

from pipelines.commands.flags import parse
from stages.people.settings import PairSettings

HELP = """\
usage: visage pairs RUN --out FOLDER [settings]

Choose from a curated run pairs of photos of one person that are not one photo, across poses and
expressions (CrossFaceID); triplets with somebody who looks alike; groups of a person in two poses
and somebody else in the first (AIDT, DreamID). Writes pairs.parquet, and pairs.jsonl for
InstantID's trainer, with the files that they name.

`visage pairs RUN --help` lists every setting with its value.
"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Bring photos of one person together for training."""

    out: str = "pairs"
    """Folder for the pairs."""
    recipe: Annotated[PairSettings, tyro.conf.arg(name="")] = field(default_factory=PairSettings)
    json: bool = False
    """End with one JSON object on the last line."""


def main(arguments: list[str]) -> int:
    """Parse, choose, tell."""
    if not arguments or arguments[0].startswith("-"):
        sys.stdout.write(HELP)
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    run = arguments[0]
    asked = parse(Arguments, Arguments(), arguments[1:], f"visage pairs {run}")
    from pipelines.pairs import pairs

    console = Console(stderr=asked.json, highlight=False)
    done = pairs(run, asked.out, asked.recipe, console)
    counts = ", ".join(f"{n:,} {kind}s" for kind, n in done.matches.items()) or "no pairs"
    console.print(
        f"{counts} of {done.identities:,} people, {done.photos:,} photos, are in {done.path}",
        markup=False,
        soft_wrap=True,
    )
    if done.matches.get("pair"):
        words = f"visage prepare RECIPE --corpus {run} --people identity --pairs {asked.out}"
        console.print(f"\nNext: {words}", markup=False, soft_wrap=True)
    if asked.json:
        sys.stdout.write(json.dumps(asdict(done)) + "\n")
    return 0
