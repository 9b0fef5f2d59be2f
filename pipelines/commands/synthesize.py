"""``visage synthesize``: a corpus of people who do not exist."""

import json
import sys
from dataclasses import asdict, dataclass, fields

from rich.console import Console

from pipelines.commands.flags import parse
from pipelines.synthesis.settings import SynthesizeSettings

HELP = """\
usage: visage synthesize --model file:EXPORT --corpus RUN --out FOLDER [--people N]
                         [--pictures N] [--plan plan.yaml] [--json] ...

Draw people who do not exist: each unlike all others and unlike everybody in the corpus, whose
vectors they are drawn after; several pictures of each. --plan balances them. What was drawn is
measured by the corpus' encoder (report.json, report.html), and every picture says that it is
synthetic. The same command goes on where it was stopped; `visage prepare` reads the folder.

`visage synthesize --model X --help` lists every setting.
"""


@dataclass(frozen=True, kw_only=True)
class Arguments(SynthesizeSettings):
    """Draw a corpus of people who do not exist."""

    out: str = "synthetic"
    """Folder for the corpus."""
    json: bool = False
    """End with one JSON object on the last line."""


def main(arguments: list[str]) -> int:
    """Parse, draw, tell."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(HELP)
        return 0 if arguments else 2
    asked = parse(Arguments, Arguments(), arguments, "visage synthesize")
    given = {entry.name: getattr(asked, entry.name) for entry in fields(SynthesizeSettings)}
    from pipelines.synthesize import synthesize

    console = Console(stderr=asked.json, highlight=False)
    done = synthesize(SynthesizeSettings(**given), asked.out, console)
    from pipelines.synthesis.report import WORDS

    for name, score in done.scores.items():
        console.print(f"{score['value']:6.3f}  {WORDS[name]}", markup=False)
    console.print(
        f"{done.people:,} people, {done.pictures:,} pictures are in {done.path}; signed by: "
        f"{done.signed_by}. report.html shows the first of them.",
        markup=False,
        soft_wrap=True,
    )
    words = f"visage prepare RECIPE --corpus {asked.out} --out FEATURES"
    console.print(f"\nNext: {words}", markup=False, soft_wrap=True)
    if asked.json:
        sys.stdout.write(json.dumps(asdict(done)) + "\n")
    return 0
