"""What is kept of people, and a counter per list that tells every process when it has changed."""

import numpy as np
from jaxtyping import Float32
from sqlalchemy import (
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    select,
    text,
)

TABLES = MetaData()
PEOPLE = Table(
    "people", TABLES,
    Column("id", String(64), primary_key=True),
    Column("owner", String(32), nullable=False),
    Column("created", Float(53), nullable=False),
    Column("purpose", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("subject_name", Text, nullable=False),
    Column("granted_at", Float(53), nullable=False),
    Column("until", Float(53), nullable=False, index=True),
    Column("leaving", Integer, nullable=False),
    Column("photos", Integer, nullable=False),
    Column("crops", Integer, nullable=False),
    Column("liveness", String(16), nullable=False),
    Column("embedder", String(128), nullable=False),
    Column("vector", LargeBinary, nullable=False),
    Column("version", Integer, nullable=False),
    Index("people_by_owner", "owner", "version"),
)  # fmt: skip
"""The enrolled. ``vector``: the mean of the photographs'; ``leaving``: being forgotten."""
PHOTOS = Table(
    "people_photos", TABLES,
    Column("person", ForeignKey("people.id", ondelete="CASCADE"), primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("vector", LargeBinary, nullable=False),
    Column("crop", LargeBinary),
)  # fmt: skip
"""What was measured of each photograph, and its aligned face as PNG where that is kept."""
FORGOTTEN = Table(
    "people_forgotten", TABLES,
    Column("tombstone", String(32), primary_key=True),
    Column("at", Float(53), nullable=False),
    Column("version", Integer, nullable=False, index=True),
    Column("erased", Integer, nullable=False, index=True),
)  # fmt: skip
"""Hashes of ids. ``erased``: the disk was rewritten since."""
PROTECTED = Table(
    "protected", TABLES,
    Column("id", String(64), primary_key=True),
    Column("added", Float(53), nullable=False),
    Column("note", Text, nullable=False),
    Column("embedder", String(128), nullable=False),
    Column("photos", Integer, nullable=False),
    Column("vectors", LargeBinary, nullable=False),
)  # fmt: skip
"""Whom nobody may draw: one vector per photograph, one behind the other."""
VERSIONS = Table(
    "versions", TABLES,
    Column("name", String(32), primary_key=True),
    Column("n", Integer, nullable=False),
)  # fmt: skip
_BUMP = text(
    "INSERT INTO versions (name, n) VALUES (:name, 1) "
    "ON CONFLICT (name) DO UPDATE SET n = versions.n + 1 RETURNING n"
)


def bump(transaction: Connection, name: str) -> int:
    """Count a change of a list; return its number, which is larger than all before it.

    Changes of a list happen one after the other: the counter is locked until the transaction ends.
    """
    return int(transaction.execute(_BUMP, {"name": name}).scalar_one())


def version(connection: Connection, name: str) -> int:
    """Return how often a list was changed."""
    asked = select(VERSIONS.c.n).where(VERSIONS.c.name == name)
    return connection.execute(asked).scalar() or 0


def packed(vectors: Float32[np.ndarray, "..."]) -> bytes:
    """Return vectors as the database keeps them: little-endian float32."""
    return vectors.astype("<f4").tobytes()


def unpacked(blob: bytes) -> Float32[np.ndarray, " numbers"]:
    """Return what ``packed`` has packed, as one row of numbers."""
    return np.frombuffer(blob, dtype="<f4").astype(np.float32)
