"""Rows of people who asked to be forgotten: known again by a hash, kept as nothing but a number."""

from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from stages.types import Batch

_ABOUT_PEOPLE = ("blob", "sha256", "pdq", "pdq_mirror", "caption", "label")


def tombstone(text: str) -> str:
    """Hash an id or a file's sha256: 32 hex digits, BLAKE2b-128 with a key of our own.

    Who knows the id can ask whether it was forgotten; nobody can tell the id from the hash.
    """
    return blake2b(text.encode(), digest_size=16, person=b"visage-forgotten").hexdigest()


def forgotten_row(row: Mapping[str, Any], names: Sequence[str], texts: Collection[str]) -> Any:  # noqa: ANN401
    """Return what is left of a row: its place in the source, and that it was forgotten.

    So a run still accounts for every row it was given.

    Args:
        row: With its id and its place.
        names: All columns.
        texts: Those of ``names`` that hold text, which become empty; others become null.
    """
    left = {name: "" if name in texts else None for name in names}
    left |= {name: row[name] for name in ("source", "source_row") if name in left}
    left |= {name: value for name, value in _VERDICT.items() if name in left}
    return left | {"id": tombstone(row["id"])}


_VERDICT = {"status": "reject", "rejected_by": "forgotten"}


class DropForgotten:
    """Reject a picture that was forgotten, wherever it comes from this time, and keep none of it.

    Args:
        files: Tombstones of files' sha256.
    """

    reads = (*_ABOUT_PEOPLE, "rejected_by")
    writes = (*_ABOUT_PEOPLE, "rejected_by")

    def __init__(self, files: frozenset[str]) -> None:
        self.files = files

    def __call__(self, batch: Batch) -> Batch:
        """Ask every file of ``batch``."""
        gone = [tombstone(digest) in self.files for digest in batch["sha256"]]
        blanks = dict.fromkeys(_ABOUT_PEOPLE) | {
            "sha256": "",
            "caption": "",
            "label": "",
            "rejected_by": "forgotten",
        }
        return {
            name: [blank if away else value for away, value in zip(gone, batch[name], strict=True)]
            for name, blank in blanks.items()
        }
