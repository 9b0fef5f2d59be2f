"""People whom nobody may draw, known by their vectors: the purpose of VIPGuard.

A face is refused when it is nearer to a protected person's photograph than a bound that comes from
the encoder's measured error rates: ``python -m tests.bench.verification`` prints them. A list of N
people is N chances for a false alarm.

What differs from the plain question "are these two photographs of one person?": every face that is
drawn is asked about everybody on the list, so the bound is stricter than the encoder's own
``same_person_below``, and vectors are compared by their angle, which orders pairs better (see
``GroupingPoints`` of the encoder).
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from sqlalchemy import Engine, delete, insert, select

from infra.errors import BadValue
from serving.audit import TABLES as AUDIT_TABLES
from serving.audit import append
from serving.database import prepare, reading, scrub
from serving.errors import Refusal
from serving.people.tables import PROTECTED, TABLES, bump, packed, unpacked, version

COUNTER = "protected"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """Below which cosine distance a face counts as a protected person's, and what that costs."""

    below: float
    false_alarms: float | None
    """Share of the faces of others that are refused, per photograph on the list; None: unknown."""
    misses: float | None
    """Share of the protected person's own photographs that pass, one listed; None: unknown."""


BOUNDS = {
    "dlib": Bound(below=0.075, false_alarms=0.001, misses=0.057),
    # Not measured by us: the similarity of 0.4 that its author ships, see ``InsightEmbedder``.
    "insightface": Bound(below=0.6, false_alarms=None, misses=None),
}
"""By backend. dlib: on 4,895 photographs of Labeled Faces in the Wild, all 11,951,618 pairs of
different people for the false alarms, 1,473 labelled pairs of one person for the misses."""


def bound(backend: str, below: float = 0.0) -> Bound:
    """Return where to refuse: a given distance, or the measured point of a backend."""
    if below:
        return Bound(below=below, false_alarms=None, misses=None)
    return BOUNDS[backend]


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """One protected person."""

    id: str
    added: float
    note: str
    embedder: str
    photos: int


@dataclass(frozen=True, slots=True)
class _Held:
    """The list as it was at a version: one row per photograph, of length one."""

    version: int
    ids: tuple[str, ...]
    vectors: Float32[np.ndarray, "photos dim"]
    strangers: int
    """How many were measured by another encoder, so that nothing can be said of them."""


class Protected:
    """The list in one database; a change by any process holds from the next question on."""

    def __init__(self, engine: Engine) -> None:
        """Make the tables if they are not there."""
        self._engine = engine
        for tables in (TABLES, AUDIT_TABLES):
            prepare(engine, tables)
        self._held: dict[str, _Held] = {}

    def add(self, vectors: Float32[np.ndarray, "photos dim"], embedder: str, note: str) -> str:
        """Protect somebody, known by one or more photographs; return the entry's id."""
        if not len(vectors):
            raise BadValue("photos", (), "give at least one.")
        identity = f"protected_{secrets.token_hex(8)}"
        with self._engine.begin() as transaction:
            bump(transaction, COUNTER)
            row = {
                "id": identity, "added": time.time(), "note": note, "embedder": embedder,
                "photos": len(vectors), "vectors": packed(vectors),
            }  # fmt: skip
            transaction.execute(insert(PROTECTED).values(**row))
            details = {"photos": len(vectors)}
            append(transaction, "protected", subject=identity, details=details)
        return identity

    def all(self) -> Sequence[Listed]:
        """Return who is on the list, oldest first, without their vectors."""
        columns = [PROTECTED.c[name] for name in ("id", "added", "note", "embedder", "photos")]
        with reading(self._engine) as connection:
            rows = connection.execute(select(*columns).order_by(PROTECTED.c.added)).mappings()
            return [Listed(**row) for row in rows]

    def remove(self, identity: str) -> bool:
        """Take somebody off the list, and off the disk; say whether that is done too.

        Raises:
            BadValue: There is no such entry.
        """
        with self._engine.begin() as transaction:
            bump(transaction, COUNTER)
            gone = transaction.execute(delete(PROTECTED).where(PROTECTED.c.id == identity))
            if not gone.rowcount:
                raise BadValue("id", identity, "nobody is listed so; `visage protect list` shows.")
            append(transaction, "unprotected", subject=identity)
        return scrub(self._engine, PROTECTED.name)

    def empty(self, embedder: str) -> bool:
        """Say whether there is nobody to look for.

        Raises:
            Refusal: See ``resembled``.
        """
        return not self._now(embedder).ids

    def resembled(
        self, vectors: Float32[np.ndarray, "faces dim"], embedder: str, below: float
    ) -> str:
        """Return the entry that one of the faces resembles most; empty: none is near enough.

        Args:
            vectors: Of faces, raw.
            embedder: What measured them.
            below: Cosine distance.

        Raises:
            Refusal: ``protection_unavailable``: part of the list was measured by another encoder.
                Nobody on it is left unprotected in silence.
        """
        held = self._now(embedder)
        if not held.ids or not len(vectors):
            return ""
        distances = 1 - _unit(vectors) @ held.vectors.T
        face, photo = np.unravel_index(int(distances.argmin()), distances.shape)
        return held.ids[photo] if distances[face, photo] < below else ""

    def _now(self, embedder: str) -> _Held:
        with reading(self._engine) as connection:
            now = version(connection, COUNTER)
            held = self._held.get(embedder)
            if held is None or held.version != now:
                rows = connection.execute(select(PROTECTED)).all()
                mine = [row for row in rows if row.embedder == embedder]
                ids = tuple(row.id for row in mine for _ in range(row.photos))
                numbers = unpacked(b"".join(row.vectors for row in mine))
                vectors = _unit(numbers.reshape(len(ids), -1)) if ids else np.empty((0, 0), "f4")
                held = self._held[embedder] = _Held(now, ids, vectors, len(rows) - len(mine))
        if held.strangers:
            raise Refusal(
                "protection_unavailable",
                f"{held.strangers} protected people were measured by another encoder than "
                f"{embedder}, which measures here; whoever runs this server must add them again.",
                {"people": held.strangers},
            )
        return held


def _unit(vectors: Float32[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows dim"]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)
