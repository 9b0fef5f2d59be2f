"""``visage release RUN --as NAME``: a trained model into the registry, and to champion if best."""

import json
import sys
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro
from rich.console import Console

from infra.errors import BadValue

HELP = """\
usage: visage release RUN --as NAME [--metric auc] [--checkpoint latest] [--force] [--json]

Register the export of a run of `visage train` as a version of the model NAME, with its lineage:
recipe, corpus, code, scores, licences, and the SHA-256 of every file. The checkpoint must have been
scored (`visage evaluate RUN`). The alias NAME@champion moves to it only if its score is greater
than the present champion's, on the same held-out people.

The same export again is the same version. The registry is that of the store which the run is in,
or MLFLOW_TRACKING_URI's.
"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Register a trained model, and make it champion if it is the best."""

    name: Annotated[str, tyro.conf.arg(name="as")] = ""
    """The model's name: letters, digits, _ and -."""
    metric: str = "auc"
    """The score that decides; more is better."""
    checkpoint: str = "latest"
    """`latest`, `best` (by the recipe's keep_best) or a name such as step-0000500."""
    force: bool = False
    """Move the alias whatever the scores say; the version's tags will tell."""
    json: bool = False
    """End with one JSON object on the last line."""


def main(arguments: list[str]) -> int:
    """Parse, release, tell."""
    if not arguments or arguments[0].startswith("-"):
        sys.stdout.write(HELP)
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    asked = tyro.cli(Arguments, args=arguments[1:], prog="visage release RUN")
    if not asked.name:
        raise BadValue("--as", "", "name the model, such as `--as faceid`.")
    from pipelines.release import release

    console = Console(stderr=asked.json, highlight=False)
    result = release(
        arguments[0], asked.name, console,
        metric=asked.metric, checkpoint=asked.checkpoint, force=asked.force,
    )  # fmt: skip
    if asked.json:
        sys.stdout.write(json.dumps(asdict(result)) + "\n")
    return 0
