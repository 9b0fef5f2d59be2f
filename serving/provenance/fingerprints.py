"""Which request a mark names: 32 bits that mean nothing without these records."""

import secrets
import time
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Engine, Float, MetaData, String, Table, insert, select

from serving.database import prepare, reading
from serving.provenance.watermark import PAYLOAD_BITS

TABLES = MetaData()
_ISSUED = Table(
    "fingerprints",
    TABLES,
    Column("payload", BigInteger, primary_key=True, autoincrement=False),
    Column("key_id", String, nullable=False),
    Column("request_id", String, nullable=False),
    Column("issued", Float, nullable=False),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Issued:
    """Whom a fingerprint was issued for."""

    key_id: str
    """The API key's; empty where none are asked for."""
    request_id: str
    issued: float
    """Seconds since 1970."""


class Fingerprints:
    """The fingerprints of one database. Safe to use from many threads and processes."""

    def __init__(self, engine: Engine) -> None:
        """Open the table; make it if it is not there."""
        self._engine = engine
        prepare(engine, TABLES)

    def issue(self, key_id: str, request_id: str) -> int:
        """Return 32 bits that no request has had before, written down before they are used."""
        with self._engine.begin() as transaction:
            while True:
                payload = secrets.randbits(PAYLOAD_BITS)
                taken = select(_ISSUED.c.payload).where(_ISSUED.c.payload == payload)
                if transaction.execute(taken).first() is None:
                    break
            row = {"payload": payload, "key_id": key_id, "request_id": request_id}
            transaction.execute(insert(_ISSUED).values(**row, issued=time.time()))
        return payload

    def find(self, payload: int) -> Issued | None:
        """Say whom a fingerprint was issued for; None: for nobody here."""
        named = select(_ISSUED.c.key_id, _ISSUED.c.request_id, _ISSUED.c.issued)
        with reading(self._engine) as connection:
            row = connection.execute(named.where(_ISSUED.c.payload == payload)).first()
        if row is None:
            return None
        return Issued(key_id=row.key_id, request_id=row.request_id, issued=row.issued)
