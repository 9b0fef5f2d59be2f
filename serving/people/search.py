"""Who of the enrolled looks like that: over vectors that stay in memory, all of them compared.

Each process holds the vectors of every key that searches, and asks a counter in the database before
each search whether somebody came, went or was renewed since; then it reads what has changed. All
are compared in half precision, which halves the memory that has to be read, and the best again in
full: so distances are exact, and so is the order unless a hundred people are equally near.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import faiss
import numpy as np
from jaxtyping import Float32, Float64, Int64
from sqlalchemy import Connection, Engine, select

from serving.database import reading
from serving.people.records import COUNTER
from serving.people.tables import FORGOTTEN, PEOPLE, unpacked, version
from stages.forgotten import tombstone
from stages.models.faces import distance

SPARE = 100
"""How many more than asked for are compared in full precision."""
_LEAST = 64
_FAISS: Any = faiss  # its stubs do not know the keywords that its Python layer adds


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """One enrolled person."""

    id: str
    distance: float


class Search:
    """Nearest enrolled people. Safe to use from many threads."""

    def __init__(self, engine: Engine, embedder: str, metric: Literal["l2", "cosine"]) -> None:
        """Hold nobody yet.

        Args:
            engine: The database of the enrolled.
            embedder: Whose vectors are compared; people measured by another are left out.
            metric: How.
        """
        self._engine, self._embedder = engine, embedder
        self._metric: Literal["l2", "cosine"] = metric
        self._crowds: dict[str, _Crowd] = {}
        self._lock = threading.Lock()

    def nearest(
        self, owner: str, vector: Float32[np.ndarray, " dim"], limit: int
    ) -> tuple[Sequence[Match], int]:
        """Return the people of a key who are nearest to a vector, and how many were compared.

        Those whose consent has ended are not among them.
        """
        with self._lock:
            crowd = self._crowds.get(owner)
            if crowd is None or crowd.waste > len(crowd.ids) // 2:
                crowd = self._crowds[owner] = _Crowd(len(vector), self._metric)
        with crowd.lock:
            with reading(self._engine) as connection:
                now = version(connection, COUNTER)
                if crowd.version != now:
                    self._update(crowd, connection, owner)
                    crowd.version = now
            return crowd.nearest(vector, limit)

    def _update(self, crowd: "_Crowd", connection: Connection, owner: str) -> None:
        """Read who came, went or was renewed."""
        left = select(FORGOTTEN.c.tombstone).where(FORGOTTEN.c.version > crowd.version)
        for mark in connection.execute(left).scalars():
            crowd.take_out(mark)
        columns = (PEOPLE.c.id, PEOPLE.c.vector, PEOPLE.c.until, PEOPLE.c.leaving)
        asked = select(*columns).where(
            PEOPLE.c.owner == owner, PEOPLE.c.version > crowd.version,
            PEOPLE.c.embedder == self._embedder,
        )  # fmt: skip
        rows = connection.execute(asked).all()
        until = [0.0 if row.leaving else row.until for row in rows]
        came = crowd.renew([row.id for row in rows], until)
        new = [rows[i] for i in came]
        crowd.put_in([row.id for row in new], [row.vector for row in new], [until[i] for i in came])


class _Crowd:
    """The enrolled of one key, in the order they came; used under its lock."""

    def __init__(self, dim: int, metric: Literal["l2", "cosine"]) -> None:
        self.lock = threading.Lock()
        self.version = 0
        """Up to which change they were read."""
        self.ids: list[str] = []
        self.waste = 0
        """How many of them have gone, and are only passed over."""
        self._metric: Literal["l2", "cosine"] = metric
        self._places: dict[str, int] = {}  # by tombstone: all that is kept of those who went
        self._vectors: Float32[np.ndarray, "room dim"] = np.empty((_LEAST, dim), dtype=np.float32)
        self._until: Float64[np.ndarray, " room"] = np.zeros(_LEAST)
        kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        half = faiss.ScalarQuantizer.QT_fp16
        self._index = _FAISS.IndexScalarQuantizer(dim, half, kind)

    def take_out(self, mark: str) -> None:
        """Find nobody by this tombstone any more."""
        place = self._places.pop(mark, None)
        if place is not None:
            self._until[place] = 0.0
            self._vectors[place] = 0.0
            self.waste += 1

    def renew(self, ids: Sequence[str], until: Sequence[float]) -> Sequence[int]:
        """Note new ends for those who are here; return which of ``ids`` are not."""
        strangers = []
        for i, (identity, end) in enumerate(zip(ids, until, strict=True)):
            place = self._places.get(tombstone(identity))
            if place is None:
                strangers.append(i)
            else:
                self._until[place] = end  # photographs are never added, so the vector stays
        return strangers

    def put_in(self, ids: Sequence[str], blobs: Sequence[bytes], until: Sequence[float]) -> None:
        """Take new people in."""
        if not ids:
            return
        start, end = len(self.ids), len(self.ids) + len(ids)
        if end > len(self._until):
            room = max(end, 2 * len(self._until))
            for name in ("_vectors", "_until"):
                old = getattr(self, name)
                new = np.zeros((room, *old.shape[1:]), dtype=old.dtype)
                new[:start] = old[:start]
                setattr(self, name, new)
        vectors = unpacked(b"".join(blobs)).reshape(len(ids), -1)
        self._vectors[start:end], self._until[start:end] = vectors, until
        self._places.update({tombstone(one): start + i for i, one in enumerate(ids)})
        self.ids.extend(ids)
        self._index.add(self._comparable(vectors))

    def nearest(
        self, vector: Float32[np.ndarray, " dim"], limit: int
    ) -> tuple[Sequence[Match], int]:
        """Compare a vector with all whose consent holds."""
        allowed = self._until[: len(self.ids)] > time.time()
        enrolled = int(allowed.sum())
        if not enrolled:
            return [], 0
        wanted = min(limit + SPARE, enrolled)
        # The array is kept in a name: faiss reads its memory and holds no reference to it.
        bits = np.packbits(allowed, bitorder="little")
        chosen = _FAISS.SearchParameters(sel=_FAISS.IDSelectorBitmap(bits))
        query = self._comparable(vector[None])
        found = self._index.search(query, wanted, params=chosen)[1][0]
        places: Int64[np.ndarray, " found"] = np.sort(found[found >= 0])
        near = self._vectors[places]
        exact = distance(near, np.broadcast_to(vector, near.shape), self._metric)
        order = np.argsort(exact, kind="stable")[:limit]
        matches = [Match(id=self.ids[places[i]], distance=float(exact[i])) for i in order]
        return matches, enrolled

    def _comparable(self, vectors: Float32[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "..."]:
        """Return vectors so that the index's metric orders them as the encoder's does."""
        if self._metric == "l2":
            return np.ascontiguousarray(vectors)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)
