"""``visage doctor``: is everything here that runs need?"""

import json
import sys
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.commands.flags import parse

HELP = """\
usage: visage doctor [--store STORE] [--json]

Look at Python, libraries, GPUs, DeepSpeed's compiler, face models, the store, MLflow, the cluster
and its token, and ports: each line is good, or says what to do.

exit codes: 0 all that is needed is there (notes do not count); 1 something is bad.
"""
_STYLES = {"good": "green", "note": "yellow", "bad": "bold red"}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Look at all that runs depend on."""

    store: str = "store"
    """Folder or s3:// prefix that is to be written to."""
    json: bool = False
    """Write JSON, and nothing else, to standard output."""


def main(arguments: list[str]) -> int:
    """Parse, look, tell."""
    if arguments and arguments[0] in ("-h", "--help"):
        sys.stdout.write(HELP)
        return 0
    asked = parse(Arguments, Arguments(), arguments, "visage doctor")
    from pipelines.doctor import examine

    found = examine(asked.store)
    bad = [finding for finding in found if finding.state == "bad"]
    if asked.json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in found]) + "\n")
        return 1 if bad else 0
    rows = Table(box=None, show_header=False, pad_edge=False)
    rows.add_column(no_wrap=True)
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")
    for finding in found:
        said = finding.said + (f"\n-> {finding.cure}" if finding.cure else "")
        style = _STYLES[finding.state]
        rows.add_row(finding.what, f"[{style}]{finding.state}[/{style}]", escape(said))
    console = Console(highlight=False)
    console.print(rows)
    console.print(f"\n{len(bad)} to mend." if bad else "\nAll that is needed is here.")
    return 1 if bad else 0
