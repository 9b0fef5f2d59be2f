"""What a store remembers of those it forgot: hashes, when, and why; nothing of who they were."""

import json
from dataclasses import dataclass

from infra.storage import Folder

FOLDER = "forgotten"
"""In a store: one JSON file per forgetting."""


@dataclass(frozen=True, slots=True)
class Tombstones:
    """Hashes of what must not come back, see ``stages.forgotten.tombstone``."""

    rows: frozenset[str] = frozenset()
    """Of ids."""
    files: frozenset[str] = frozenset()
    """Of files' sha256."""

    @staticmethod
    def read(store: Folder) -> "Tombstones":
        """Read all of a store."""
        rows: set[str] = set()
        files: set[str] = set()
        home = store / FOLDER
        for path in home.files(".json"):
            held = json.loads(home.read(path.removeprefix(f"{home.path}/")))
            rows.update(held["rows"])
            files.update(held["files"])
        return Tombstones(frozenset(rows), frozenset(files))
