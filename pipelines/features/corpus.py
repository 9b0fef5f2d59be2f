"""What a corpus holds: a digest of its contents, and the licences of its pictures."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from infra.configuration import digest

CONTENTS = (
    "id", "sha256", "bytes_len", "width_px", "height_px", "label", "identity", "num_faces",
    "face_boxes_px", "face_landmarks_px", "embedder", "license", "caption", "caption_merged",
    "caption_attributes", "caption_action", "caption_parts",
)  # fmt: skip
"""Columns that say which pictures these are and what is made of them, without the bytes."""


@dataclass(frozen=True)
class Corpus:
    """What a corpus holds."""

    digest: str
    """Of all files' names and rows."""
    licences: dict[str, int]
    """Pictures by licence, ``not stated`` among them."""


def describe(files: Sequence[Path]) -> Corpus:
    """Read what the rows of an export say, but no picture.

    Pictures count by the SHA-256 of the file that was found, and the size of the one that is kept,
    which differ where strangers were made unknowable in it; vectors by their encoder and faces.

    Args:
        files: Parquet of an export, in order.
    """
    said: list[tuple[str, str]] = []
    licences: Counter[str] = Counter()
    for path in files:
        names = [name for name in CONTENTS if name in pq.read_schema(path).names]
        rows = pq.read_table(path, columns=names).to_pylist()
        words = json.dumps(rows, sort_keys=True, ensure_ascii=False)
        said.append((path.name, hashlib.sha256(words.encode()).hexdigest()))
        licences.update(row.get("license") or "not stated" for row in rows)
    return Corpus(digest(said), dict(sorted(licences.items())))
