"""``visage evaluate RUN``: does a trained model keep people it never saw?"""

import json
import sys
from dataclasses import asdict, dataclass

import tyro
from rich.console import Console

HELP = """\
usage: visage evaluate RUN [--people N] [--guidance G] [--json]

Score the newest checkpoint of a run of `visage train` on people that it never saw.
Writes scores.json and contact.png into the run's folder.
"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Score a training run on people that it never saw."""

    people: int = 200
    """People with two photographs or more, at most."""
    guidance: float = 3.0
    """Weight of the identity when drawing."""
    json: bool = False
    """End with one JSON object on the last line."""


def main(arguments: list[str]) -> int:
    """Parse, score, tell."""
    if not arguments or arguments[0].startswith("-"):
        sys.stdout.write(HELP)
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    asked = tyro.cli(Arguments, args=arguments[1:], prog="visage evaluate RUN")
    from pipelines.evaluate import evaluate

    console = Console(stderr=asked.json, highlight=False)
    scores = evaluate(arguments[0], console, people=asked.people, guidance=asked.guidance)
    if asked.json:
        sys.stdout.write(json.dumps(asdict(scores)) + "\n")
    return 0
