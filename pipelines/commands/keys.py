"""``visage keys``: who may ask a served model, for what and how often."""

import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import tyro
from rich.console import Console
from rich.table import Table

from serving.keys import SCOPES, Key, Keys

HELP = f"""\
usage: visage keys add NAME [--scopes SCOPE ...] [--rate N] [--quota N] [--days N] [--file FILE]
       visage keys list [--file FILE]
       visage keys revoke ID [--file FILE]

Make, list and end API keys for `visage deploy --keys FILE`. A key is shown once, when it is made.
Scopes: {", ".join(SCOPES)}. A revoked key stops working within seconds.
"""
_DAY_S = 86400


@dataclass(frozen=True, kw_only=True)
class Add:
    """Make a key and show it, once."""

    name: tyro.conf.Positional[str]
    """Whose it is."""
    scopes: tuple[str, ...] = ("images", "faces", "models")
    """What it is for."""
    rate: int = 0
    """Requests a minute at most; 0: no bound."""
    quota: int = 0
    """Pictures a day at most; 0: no bound."""
    days: int = 0
    """Days until it expires; 0: never."""
    file: str = "keys.db"
    """Where keys are kept; made if it is not there."""


@dataclass(frozen=True, kw_only=True)
class List:
    """Show the keys, without their secrets."""

    file: str = "keys.db"
    """Where keys are kept."""


@dataclass(frozen=True, kw_only=True)
class Revoke:
    """End a key."""

    id: tyro.conf.Positional[str]
    """The eight characters behind `vsg_`."""
    file: str = "keys.db"
    """Where keys are kept."""


VERBS: dict[str, type[Add] | type[List] | type[Revoke]] = {
    "add": Add,
    "list": List,
    "revoke": Revoke,
}


def main(arguments: list[str]) -> int:
    """Parse and carry out."""
    if not arguments or arguments[0] not in VERBS:
        sys.stdout.write(HELP)
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    verb, rest = arguments[0], arguments[1:]
    asked = tyro.cli(VERBS[verb], args=rest, prog=f"visage keys {verb}")
    keys = Keys(asked.file, make=isinstance(asked, Add))
    try:
        if isinstance(asked, Add):
            _add(keys, asked)
        elif isinstance(asked, Revoke):
            keys.revoke(asked.id)
        else:
            _show(keys.all())
    finally:
        keys.close()
    return 0


def _add(keys: Keys, asked: Add) -> None:
    made = keys.add(
        asked.name,
        asked.scopes,
        rate_per_min=asked.rate,
        quota_per_day=asked.quota,
        expires=time.time() + asked.days * _DAY_S if asked.days else 0.0,
    )
    sys.stderr.write("Keep it safe: it is not shown again.\n")
    sys.stdout.write(f"{made}\n")


def _show(keys: list[Key]) -> None:
    table = Table("id", "name", "scopes", "rate/min", "quota/day", "made", "state", box=None)
    for key in keys:
        table.add_row(
            key.id,
            key.name,
            " ".join(key.scopes),
            str(key.rate_per_min or "-"),
            str(key.quota_per_day or "-"),
            _day(key.created),
            _state(key),
        )
    Console(highlight=False).print(table)


def _state(key: Key) -> str:
    if key.revoked:
        return f"revoked {_day(key.revoked)}"
    if key.expires:
        return f"{'expired' if key.expires < time.time() else 'until'} {_day(key.expires)}"
    return "in use"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
