"""``visage protect``: people whom nobody may draw."""

import asyncio
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tyro
from rich.console import Console
from rich.table import Column, Table

from infra.errors import BadInput, UnreadableSource
from pipelines.commands.audit import existing
from serving.recipes import FaceSettings

if TYPE_CHECKING:
    from serving.people.protected import Protected

HELP = """\
usage: visage protect add PHOTO... [--note TEXT] [--records FILE] [--faces.backend dlib]
       visage protect list [--records FILE] [--faces.backend dlib]
       visage protect remove ID [--records FILE]

Keep a list of people whom nobody may draw: a request whose reference or whose result resembles one
is refused, at once and everywhere that uses these records. Only vectors are kept. Several
photographs of a person miss less than one. The face models must be those of the deployment.
"""
_RECORDS = "trained/serving.db"


@dataclass(frozen=True, kw_only=True)
class Add:
    """Protect the one person that photographs show."""

    photos: tyro.conf.Positional[tuple[str, ...]]
    """Of this person, alone on each."""
    note: str = ""
    """Why, and who asked; kept with the entry, never shown to clients."""
    records: str = _RECORDS
    """What `visage deploy --records` names; made if it is not there."""
    faces: FaceSettings = field(default_factory=lambda: FaceSettings(at_once=1))
    """As in the recipe of the deployment."""


@dataclass(frozen=True, kw_only=True)
class List:
    """Show who is protected, and what the list costs others."""

    records: str = _RECORDS
    """What `visage deploy --records` names."""
    faces: FaceSettings = field(default_factory=FaceSettings)
    """As in the recipe of the deployment."""


@dataclass(frozen=True, kw_only=True)
class Remove:
    """Take somebody off the list."""

    id: tyro.conf.Positional[str]
    """As `visage protect list` shows it."""
    records: str = _RECORDS
    """What `visage deploy --records` names."""


VERBS: dict[str, type[Add] | type[List] | type[Remove]] = {
    "add": Add, "list": List, "remove": Remove,
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Parse and carry out."""
    if not arguments or arguments[0] not in VERBS:
        sys.stdout.write(HELP)
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    verb, rest = arguments[0], arguments[1:]
    asked = tyro.cli(VERBS[verb], args=rest, prog=f"visage protect {verb}")
    # The database takes a moment to import, which help should not.
    from serving.database import open_database
    from serving.people.protected import Protected

    new = isinstance(asked, Add) and "://" not in asked.records
    new = new and not Path(asked.records).expanduser().exists()
    if new:
        # In another folder than the deployment's it would protect nobody.
        sys.stderr.write(f"New records: {Path(asked.records).expanduser().absolute()}\n")
    engine = open_database(asked.records if new else existing(asked.records))
    try:
        protected = Protected(engine)
        if isinstance(asked, Add):
            _add(protected, asked)
        elif isinstance(asked, List):
            _show(protected, asked)
        elif not protected.remove(asked.id):
            sys.stderr.write("Off the list; the disk is rewritten when nobody reads.\n")
    finally:
        engine.dispose()
    return 0


def _add(protected: "Protected", asked: Add) -> None:
    from serving.errors import Refusal
    from serving.faces import Faces
    from stages.models.backend import load_embedder

    blobs = [_read(photo) for photo in asked.photos]
    if not blobs:
        raise BadInput("There is no photograph. Name one or more behind `visage protect add`.")
    faces = Faces(asked.faces)
    try:
        reference = asyncio.run(faces.reference(blobs))
    except Refusal as no:
        raise BadInput(no.message) from no
    finally:
        faces.close()
    embedder = load_embedder(asked.faces.backend, asked.faces.pack, "cpu")
    vectors = embedder.embed(np.stack(reference.faces))
    sys.stdout.write(f"{protected.add(vectors, reference.embedder, asked.note)}\n")


def _show(protected: "Protected", asked: List) -> None:
    from serving.people.protected import bound

    people = protected.all()
    whole = Column("id", no_wrap=True, min_width=26)  # it is what `remove` takes
    table = Table(whole, "added", "photos", "measured by", "note", box=None)
    for one in people:
        day = datetime.fromtimestamp(one.added, UTC).date().isoformat()
        table.add_row(one.id, day, str(one.photos), one.embedder, one.note)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    measured, photos = bound(asked.faces.backend), sum(one.photos for one in people)
    if measured.false_alarms is None or measured.misses is None:
        console.print(f"How often {asked.faces.backend} errs at {measured.below} is not known.")
        return
    alarms = 1 - (1 - measured.false_alarms) ** photos
    console.print(
        f"Expect {alarms:.1%} of other people's faces to be refused, and {measured.misses:.1%} of "
        "a listed person's to pass, with one photograph of them on the list."
    )


def _read(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UnreadableSource(path, str(error.strerror), "Name a photograph.") from None
