"""``visage forget``: a person out of every run of a store."""

import json
import sys
from dataclasses import asdict, dataclass

from rich.console import Console

from pipelines.commands.flags import parse

HELP = """\
usage: visage forget --face PHOTO [--store STORE] [--yes]
       visage forget --id ID [--store STORE] [--yes]

Find a person in every run of a store, show what is found and ask; then take out rows, pictures,
vectors, features, pairs and exports, and keep them from coming back at the next crawl. What stays
is a hash of each id. Interrupted, the same command goes on.

`visage forget --help` lists every flag.
"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Take a person out of every run of a store, and keep them out."""

    face: str = ""
    """A photo of the person, who is alone on it: found by the vectors of every run."""
    id: str = ""
    """The id of a picture, which goes with its copies; or an identity, all of whose pictures go."""
    store: str = "store"
    """Folder or s3:// prefix that holds runs."""
    max_distance: float = 0.0
    """How far the vectors of one person may be apart; 0: what the embedder's author says."""
    also: tuple[str, ...] = ()
    """Folders outside the store with features or pairs of its runs."""
    reason: str = "asked to"
    """Kept with the tombstone."""
    yes: bool = False
    """Do not ask."""
    json: bool = False
    """End with one JSON object on the last line."""


def main(arguments: list[str]) -> int:
    """Find, show, ask, forget."""
    if not arguments:
        sys.stdout.write(HELP)
        return 2
    asked = parse(Arguments, Arguments(), arguments, "visage forget")
    from infra.errors import BadInput
    from infra.storage import open_folder
    from pipelines.forget import SHEET, begin, find, finish, pending, show

    console = Console(stderr=asked.json, highlight=False, soft_wrap=True)
    store = open_folder(asked.store)
    if not store.exists():
        raise BadInput(f"There is no store {asked.store!r}. Name the right one with --store.")
    if pending(store):
        console.print("An earlier call was interrupted: going on with that.")
    else:
        found = find(store, asked.face, asked.id, asked.max_distance)
        if not found.ids:
            console.print("Nothing of them is in the store.")
            return 0
        sheet = show(store, found)
        counts = "\n".join(f"  {rows:>6,} rows in {run}" for run, rows in found.runs.items())
        console.print(f"{counts}\nWho they are: {sheet}", markup=False)
        if not asked.yes:
            if not sys.stdin.isatty():
                raise BadInput("Nobody can be asked. Look at the sheet above, then give --yes.")
            if console.input("Forget all of these? Type yes: ").strip() != "yes":
                store.fs.delete_file(f"{store.path}/{SHEET}")
                console.print("Nothing was changed.")
                return 0
        begin(store, found, asked.reason, asked.also)
    done = finish(store, console)
    console.print(f"{done.rows:,} rows are forgotten.")
    for model in done.models:
        console.print(f"The model {model} was trained on them, and still knows them.", markup=False)
    for folder in done.trained:
        words = f"Checkpoints in {folder} were trained on them: delete it to train without them."
        console.print(words, markup=False)
    for folder, samples in done.features.items():
        words = f"{samples:,} samples were taken out of {folder}."
        console.print(words, markup=False)
    for words in done.told:
        console.print(words, markup=False)
    if asked.json:
        sys.stdout.write(json.dumps(asdict(done)) + "\n")
    return 0
