"""``visage evaluate RUN``: does a trained model keep people it never saw?"""

import json
import sys
from dataclasses import dataclass, fields

from rich.console import Console

from pipelines.commands.flags import parse
from pipelines.evaluation.settings import EvaluateSettings

HELP = """\
usage: visage evaluate RUN [--people N] [--guidance G] [--against OTHER_RUN] [--json] ...

Score a checkpoint of a run of `visage train` on people that it never saw, always the same ones.
Writes RUN/evaluations/<checkpoint>-<digest>/, and copies scores.json and contact.png from there
beside the run. Of a run that draws videos there is also videos/, those of the first people as MP4.
--against scores another run the same way and compares the two person by person.

`visage evaluate RUN --help` lists every setting.
"""


@dataclass(frozen=True, kw_only=True)
class Arguments(EvaluateSettings):
    """Score a training run on people that it never saw."""

    against: str = ""
    """Another run on the same corpus: score it too, and say what differs (comparison.json)."""
    json: bool = False
    """End with one JSON object on the last line."""


def main(arguments: list[str]) -> int:
    """Parse, score, tell."""
    if not arguments or arguments[0].startswith("-"):
        sys.stdout.write(HELP)
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    asked = parse(Arguments, Arguments(), arguments[1:], "visage evaluate RUN")
    given = {entry.name: getattr(asked, entry.name) for entry in fields(EvaluateSettings)}
    settings, console = EvaluateSettings(**given), Console(stderr=asked.json, highlight=False)
    if asked.against:
        from pipelines.evaluation.compare import compare

        done, comparison = compare(arguments[0], asked.against, console, settings)
        said = done.about | {"comparison": comparison}
    else:
        from pipelines.evaluate import evaluate

        done = evaluate(arguments[0], console, settings)
        said = done.about
    if asked.json:
        sys.stdout.write(json.dumps(said | {"path": str(done.folder)}) + "\n")
    else:
        console.print(f"{done.folder}/contact.png shows what it draws.", markup=False)
    return 0
