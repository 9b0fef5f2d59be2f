"""``visage audit``: the log of what was done about people, checked and copied."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from infra.errors import BadInput
from pipelines.commands.flags import parse
from serving.audit import Audit
from serving.database import open_database

HELP = """\
usage: visage audit verify [--records FILE] [--head DIGEST]
       visage audit export [--records FILE] [--out FILE]

verify looks whether every row of the audit log is as it was written, and says which is not; export
writes all rows as JSON lines. Both end with the head, the digest of the last row: keep it where the
server cannot write. Without it nobody can see that the newest rows were cut off.
"""


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Look whether every row is as it was written."""

    records: str = "trained/serving.db"
    """What `visage deploy --records` names; a password comes from PGPASSWORD."""
    head: str = ""
    """The digest that an earlier verify or export ended with: that row must still be there."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write all rows as JSON lines."""

    records: str = "trained/serving.db"
    """What `visage deploy --records` names; a password comes from PGPASSWORD."""
    out: str = ""
    """A new file; empty: the terminal."""


VERBS: dict[str, Verify | Export] = {"verify": Verify(), "export": Export()}


def main(arguments: list[str]) -> int:
    """Parse and carry out; 1 if the log is not as it was written."""
    if not arguments or arguments[0] not in VERBS:
        sys.stdout.write(HELP)
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    verb, rest = arguments[0], arguments[1:]
    default = VERBS[verb]
    asked = parse(type(default), default, rest, f"visage audit {verb}")
    engine = open_database(existing(asked.records))
    try:
        audit = Audit(engine)
        return _verify(audit, asked.head) if isinstance(asked, Verify) else _export(audit, asked)
    finally:
        engine.dispose()


def existing(records: str) -> str:
    """Return where records are, if they are there.

    Raises:
        BadInput: There is no such file; looking makes none.
    """
    if "://" not in records and not Path(records).expanduser().is_file():
        cure = "Name with --records what `visage deploy` keeps: <store>/serving.db by default."
        raise BadInput(f"There are no records at {records!r}. {cure}")
    return records


def _verify(audit: Audit, head: str) -> int:
    seen = audit.verify(head)
    sys.stdout.write(f"{seen.rows} rows in order\nhead {seen.head}\n")
    if seen.problem:
        sys.stderr.write(f"visage: {seen.problem}.\n")
    return 1 if seen.problem else 0


def _export(audit: Audit, asked: Export) -> int:
    if not asked.out:
        head = _write(audit, sys.stdout)
    else:
        path = Path(asked.out)
        if path.exists():
            raise BadInput(f"{asked.out!r} is there already. Name a new file with --out.")
        part = path.with_name(f"{path.name}.part")
        with part.open("w") as file:
            head = _write(audit, file)
        part.replace(path)
    sys.stderr.write(f"head {head}\n")
    return 0


def _write(audit: Audit, out: TextIO) -> str:
    head = ""
    for row in audit.rows():
        out.write(json.dumps(row) + "\n")
        head = row["digest"]
    return head
