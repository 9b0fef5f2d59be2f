"""The enrolled: their vectors, their consent, whose key enrolled them; and whom we forgot.

A person belongs to the API key that enrolled them; for every other key there is nobody of that id.
Deeds are written to the audit log in the same transaction as they are done.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO

import numpy as np
from jaxtyping import Float32
from PIL import Image
from sqlalchemy import (
    Connection,
    Engine,
    RowMapping,
    delete,
    func,
    insert,
    select,
    update,
)

from serving.audit import Event, append
from serving.database import prepare, reading, scrub
from serving.errors import Refusal
from serving.people.consent import Consent, day, expired
from serving.people.tables import (
    FORGOTTEN,
    PEOPLE,
    PHOTOS,
    TABLES,
    bump,
    packed,
    unpacked,
)
from serving.types import RGB
from stages.forgotten import tombstone

COUNTER = "people"
_DAY_S = 86400


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One person as their photographs show them."""

    vectors: Float32[np.ndarray, "photos dim"]
    """Raw, one per photograph."""
    embedder: str
    crops: tuple[RGB, ...] = ()
    """Aligned faces, where they are kept."""
    liveness: str = "absent"


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """Somebody who is enrolled."""

    id: str
    created: float
    consent: Consent
    photos: int
    crops: bool
    embedder: str
    liveness: str

    @property
    def active(self) -> bool:
        """Whether the consent still holds."""
        return self.consent.until > time.time()


class People:
    """The enrolled of one database. Every process may have its own; all see the same people."""

    def __init__(self, engine: Engine) -> None:
        """Make the tables if they are not there."""
        self.engine = engine
        prepare(engine, TABLES)

    def add(
        self, owner: str, consent: Consent, seen: Measured, *, most: int, request_id: str = ""
    ) -> Person:
        """Enrol somebody.

        Args:
            owner: Id of the API key.
            consent: Checked.
            seen: What is kept of the photographs.
            most: How many people a key may have.
            request_id: For the audit log.

        Raises:
            Refusal: ``too_many_people``.
        """
        identity = f"person_{secrets.token_hex(12)}"
        with self.engine.begin() as transaction:
            version = bump(transaction, COUNTER)  # first: PostgreSQL's lock for what follows
            held = select(func.count()).select_from(PEOPLE).where(PEOPLE.c.owner == owner)
            if transaction.execute(held).scalar_one() >= most:
                words = f"This key has its {most} people enrolled; delete some first."
                raise Refusal("too_many_people", words, {"most": most})
            row = {
                "id": identity, "owner": owner, "created": time.time(), "leaving": 0,
                "photos": len(seen.vectors), "crops": len(seen.crops),
                "liveness": seen.liveness, "embedder": seen.embedder,
                "vector": packed(seen.vectors.mean(axis=0)),
                "version": version,
            }  # fmt: skip
            transaction.execute(insert(PEOPLE).values(**row, **asdict(consent)))
            crops = [encoded(crop) for crop in seen.crops]
            photos = [
                {"person": identity, "place": i, "vector": packed(vector),
                 "crop": crops[i] if crops else None}
                for i, vector in enumerate(seen.vectors)
            ]  # fmt: skip
            transaction.execute(insert(PHOTOS), photos)
            append(
                transaction, "enrolled", key_id=owner, subject=identity, request_id=request_id,
                details={"photos": len(photos), "until": day(consent.until)},
            )  # fmt: skip
            return _person(self._row(transaction, identity, owner))

    def get(self, identity: str, owner: str) -> Person:
        """Return somebody, whether or not their consent still holds.

        Raises:
            Refusal: ``unknown_person``.
        """
        with reading(self.engine) as connection:
            return _person(self._row(connection, identity, owner))

    def use(self, identity: str, owner: str) -> Measured:
        """Return what was measured of somebody, to draw them.

        Raises:
            Refusal: ``unknown_person`` or ``consent_expired``.
        """
        with reading(self.engine) as connection:
            person = _person(self._row(connection, identity, owner))
            if not person.active:
                raise expired(person.consent.until)
            asked = select(PHOTOS).where(PHOTOS.c.person == identity).order_by(PHOTOS.c.place)
            photos = connection.execute(asked).all()
        return Measured(
            vectors=np.stack([unpacked(photo.vector) for photo in photos]),
            embedder=person.embedder,
            crops=tuple(decoded(photo.crop) for photo in photos if photo.crop is not None),
            liveness=person.liveness,
        )

    def list(self, owner: str, limit: int, after: str = "") -> Sequence[Person]:
        """Return people of a key, by the time and then the id they were enrolled with.

        Args:
            owner: Id of the API key.
            limit: How many at most.
            after: The id behind which to go on.

        Raises:
            Refusal: ``unknown_person``: nobody has the id ``after``.
        """
        with reading(self.engine) as connection:
            asked = select(PEOPLE).where(PEOPLE.c.owner == owner, PEOPLE.c.leaving == 0)
            if after:
                last = self._row(connection, after, owner)
                later = PEOPLE.c.created > last["created"]
                tied = (PEOPLE.c.created == last["created"]) & (PEOPLE.c.id > after)
                asked = asked.where(later | tied)
            asked = asked.order_by(PEOPLE.c.created, PEOPLE.c.id).limit(limit)
            return [_person(row) for row in connection.execute(asked).mappings()]

    def renew(self, identity: str, owner: str, consent: Consent, request_id: str = "") -> Person:
        """Replace somebody's consent; a name that is not given again stays.

        Raises:
            Refusal: ``unknown_person``.
        """
        with self.engine.begin() as transaction:
            held = self._row(transaction, identity, owner)
            told = asdict(consent)
            told["subject_name"] = consent.subject_name or held["subject_name"]
            transaction.execute(
                update(PEOPLE).where(PEOPLE.c.id == identity)
                .values(**told, version=bump(transaction, COUNTER))
            )  # fmt: skip
            append(
                transaction, "renewed", key_id=owner, subject=identity, request_id=request_id,
                details={"until": day(consent.until)},
            )  # fmt: skip
            return _person(self._row(transaction, identity, owner))

    def leave(self, identity: str, owner: str) -> None:
        """Let nobody use somebody any more who is about to be forgotten.

        Raises:
            Refusal: ``unknown_person``.
        """
        with self.engine.begin() as transaction:
            self._row(transaction, identity, owner, leaving=True)
            left = {"leaving": 1, "version": bump(transaction, COUNTER)}
            transaction.execute(update(PEOPLE).where(PEOPLE.c.id == identity).values(**left))

    def forget(
        self, identity: str, owner: str, event: Event = "forgotten", request_id: str = ""
    ) -> bool:
        """Delete all of somebody; what stays is a hash of the id.

        Returns:
            Whether the disk was rewritten too, see ``serving.database.scrub``.
        """
        with self.engine.begin() as transaction:
            gone = transaction.execute(delete(PEOPLE).where(PEOPLE.c.id == identity))
            if gone.rowcount:
                row = {"tombstone": tombstone(identity), "at": time.time(), "erased": 0}
                row["version"] = bump(transaction, COUNTER)
                transaction.execute(insert(FORGOTTEN).values(**row))
                append(transaction, event, key_id=owner, subject=identity, request_id=request_id)
        return self.scrub()

    def scrub(self) -> bool:
        """Take what was deleted off the disk if that is still to be done; say whether it is."""
        pending = FORGOTTEN.c.erased == 0
        with reading(self.engine) as connection:
            last = connection.execute(select(func.max(FORGOTTEN.c.version)).where(pending)).scalar()
        if last is None:
            return True
        if not scrub(self.engine, PEOPLE.name, PHOTOS.name):
            return False
        with self.engine.begin() as transaction:
            done = update(FORGOTTEN).where(pending, FORGOTTEN.c.version <= last)
            transaction.execute(done.values(erased=1))
        return True

    def overdue(self, grace_days: int) -> Sequence[tuple[str, str, Event]]:
        """Return id, owner and event of those who are to be forgotten.

        Their consent ended so many days ago, or forgetting them was begun and not finished.
        """
        ended = time.time() - grace_days * _DAY_S
        asked = select(PEOPLE.c.id, PEOPLE.c.owner, PEOPLE.c.leaving).where(
            (PEOPLE.c.until <= ended) | (PEOPLE.c.leaving == 1)
        )
        with reading(self.engine) as connection:
            rows = connection.execute(asked).all()
        return [(one.id, one.owner, "forgotten" if one.leaving else "expired") for one in rows]

    def _row(
        self, connection: Connection, identity: str, owner: str, *, leaving: bool = False
    ) -> RowMapping:
        found = connection.execute(select(PEOPLE).where(PEOPLE.c.id == identity)).mappings().first()
        if found and found["owner"] == owner and (leaving or not found["leaving"]):
            return found
        gone = connection.execute(
            select(FORGOTTEN.c.at).where(FORGOTTEN.c.tombstone == tombstone(identity))
        ).scalar()
        when = f" They were forgotten on {day(gone)}." if gone else ""
        words = f"Nobody is enrolled as {identity[:80]!r} by this key.{when}"
        raise Refusal("unknown_person", words, {"forgotten": bool(gone)})


def _person(row: RowMapping) -> Person:
    consent = Consent(
        purpose=row["purpose"], evidence=row["evidence"], granted_at=row["granted_at"],
        until=row["until"], subject_name=row["subject_name"],
    )  # fmt: skip
    return Person(
        id=row["id"], created=row["created"], consent=consent, photos=row["photos"],
        crops=row["crops"] > 0, embedder=row["embedder"], liveness=row["liveness"],
    )  # fmt: skip


def encoded(crop: RGB) -> bytes:
    """Return a crop as the database keeps it: PNG."""
    out = BytesIO()
    Image.fromarray(crop).save(out, "PNG")
    return out.getvalue()


def decoded(blob: bytes) -> RGB:
    """Return what ``encoded`` made."""
    with Image.open(BytesIO(blob), formats=["PNG"]) as image:
        return np.array(image.convert("RGB"))
