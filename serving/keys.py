"""API keys: who may ask for what, how often, and how much a day.

A key is ``vsg_<id>_<secret>``. The file, SQLite in WAL mode, holds no secret, only an HMAC-SHA256
under a salt of the key's own. A slow hash such as scrypt guards secrets that people choose; this
one has 256 random bits, which nobody guesses at any speed, and it is checked on every request.
"""

import hmac
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from pathlib import Path

from infra.errors import BadValue, nearest
from serving.errors import Refusal

SCOPES = ("images", "faces", "models", "admin")
CACHE_S = 2.0
"""How long a revoked key may go on working."""
_BUSY_S = 10.0
_TABLES = """
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, salt BLOB NOT NULL, digest BLOB NOT NULL,
    scopes TEXT NOT NULL, rate_per_min INTEGER NOT NULL, quota_per_day INTEGER NOT NULL,
    created REAL NOT NULL, expires REAL NOT NULL, revoked REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS drawn (
    id TEXT NOT NULL, day TEXT NOT NULL, pictures INTEGER NOT NULL, PRIMARY KEY (id, day)
) STRICT;
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """What is known of a key, without its secret; times in seconds since 1970, 0: never."""

    id: str
    name: str
    scopes: tuple[str, ...]
    rate_per_min: int
    """Requests; 0: as many as it likes."""
    quota_per_day: int
    """Pictures, by UTC's days; 0: as many as it likes."""
    created: float
    expires: float
    revoked: float


ANYBODY = Key(
    id="", name="anybody", scopes=SCOPES, rate_per_min=0, quota_per_day=0,
    created=0.0, expires=0.0, revoked=0.0,
)  # fmt: skip
"""Who asks where no keys are asked for."""


@dataclass(slots=True)
class _Known:
    key: Key
    salt: bytes
    digest: bytes
    read: float


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled: float


class Keys:
    """The keys of one file. Safe to use from many threads; quotas hold across processes."""

    def __init__(self, path: str | Path, *, make: bool = False, cache_s: float = CACHE_S) -> None:
        """Open a file of keys.

        Args:
            path: Where it is.
            make: Whether to start one that is not there.
            cache_s: How long a key is believed without looking.

        Raises:
            BadValue: There is no such file, or it is none of keys.
        """
        self._path, self._cache_s = Path(path), cache_s
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._buckets: dict[str, _Bucket] = {}
        if not make and not self._path.is_file():
            raise BadValue("keys", str(path), "there is no such file; `visage keys add` makes it.")
        if make and not self._path.exists():
            self._path.touch(mode=0o600)
        try:
            self._database = sqlite3.connect(
                self._path, timeout=_BUSY_S, check_same_thread=False, isolation_level=None
            )
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.executescript(_TABLES)
        except sqlite3.DatabaseError as error:
            raise BadValue("keys", str(path), f"it is not a file of keys ({error}).") from None

    def add(
        self,
        name: str,
        scopes: Iterable[str],
        *,
        rate_per_min: int = 0,
        quota_per_day: int = 0,
        expires: float = 0.0,
    ) -> str:
        """Make a key and return it, secret included: this is the only time that it is seen.

        Raises:
            BadValue: A scope is not known, or a number is negative.
        """
        scopes = tuple(scopes)
        for scope in scopes:
            if scope not in SCOPES:
                raise BadValue("scopes", scope, nearest(scope, SCOPES))
        if not scopes:
            raise BadValue("scopes", "", f"name one or more of {', '.join(SCOPES)}.")
        if min(rate_per_min, quota_per_day) < 0:
            raise BadValue("rate, quota", (rate_per_min, quota_per_day), "0 means no bound.")
        identity, secret, salt = secrets.token_hex(4), secrets.token_urlsafe(32), _salt()
        row = (
            identity, name, salt, _digest(salt, secret), " ".join(scopes), rate_per_min,
            quota_per_day, time.time(), expires, 0.0,
        )  # fmt: skip
        with self._locked() as database:
            database.execute(f"INSERT INTO keys VALUES ({', '.join('?' * len(row))})", row)
        return f"vsg_{identity}_{secret}"

    def all(self) -> list[Key]:
        """List the keys, oldest first."""
        with self._locked() as database:
            rows = database.execute("SELECT * FROM keys ORDER BY created").fetchall()
        return [_known(row).key for row in rows]

    def revoke(self, identity: str) -> None:
        """End a key.

        Raises:
            BadValue: There is none with this id.
        """
        with self._locked() as database:
            ended = database.execute(
                "UPDATE keys SET revoked = ? WHERE id = ? AND revoked = 0", (time.time(), identity)
            )
        if not ended.rowcount:
            raise BadValue("id", identity, "no key in use has it; `visage keys list` shows them.")

    def check(self, token: str | None, scope: str) -> Key:
        """Return whose key it is, and count the request.

        Args:
            token: What came behind ``Authorization: Bearer``; None: nothing.
            scope: What is asked for.

        Raises:
            Refusal: ``missing_key``, ``wrong_key``, ``revoked_key``, ``out_of_scope`` or
                ``rate_exceeded``.
        """
        if not token:
            raise Refusal("missing_key", "Send your key as `Authorization: Bearer vsg_...`.")
        prefix, _, rest = token.partition("_")
        identity, _, secret = rest.partition("_")
        known = self._look_up(identity) if prefix == "vsg" else None
        # Compared in any case, so that the time taken does not tell which ids there are.
        digest = _digest(known.salt if known else b"", secret)
        if not hmac.compare_digest(digest, known.digest if known else bytes(32)) or not known:
            raise Refusal("wrong_key", "This key is not known here.")
        key = known.key
        if key.revoked or 0 < key.expires < time.time():
            what = "was revoked" if key.revoked else "has expired"
            raise Refusal("revoked_key", f"This key {what}; ask for a new one.")
        if scope not in key.scopes:
            details = {"needed": scope, "scopes": list(key.scopes)}
            raise Refusal("out_of_scope", f"This key is not for {scope}.", details)
        self._count(key)
        return key

    def charge(self, key: Key, pictures: int) -> None:
        """Take pictures from today's quota; a negative number gives them back.

        Raises:
            Refusal: ``quota_exceeded``: fewer are left.
        """
        if not key.quota_per_day:
            return
        now = datetime.now(UTC)
        with self._locked() as database:
            # One statement, so that processes that charge at once cannot both take the last.
            charged = database.execute(
                "INSERT INTO drawn SELECT ?1, ?2, max(?3, 0) WHERE ?3 <= ?4 "
                "ON CONFLICT (id, day) DO UPDATE SET pictures = max(pictures + ?3, 0) "
                "WHERE pictures + ?3 <= ?4",
                (key.id, now.date().isoformat(), pictures, key.quota_per_day),
            )
        if not charged.rowcount:
            left_s = 86400 - (now.hour * 3600 + now.minute * 60 + now.second)
            raise Refusal(
                "quota_exceeded",
                f"Fewer than {pictures} of this key's {key.quota_per_day} pictures a day are left; "
                f"there are new ones in {left_s} s.",
                {"quota_per_day": key.quota_per_day, "resets_s": left_s},
            )

    def close(self) -> None:
        """Close the file."""
        with self._locked() as database:
            database.close()

    def _look_up(self, identity: str) -> _Known | None:
        now = time.monotonic()
        known = self._known.get(identity)
        if known and now - known.read < self._cache_s:
            return known
        with self._locked() as database:
            row = database.execute("SELECT * FROM keys WHERE id = ?", (identity,)).fetchone()
        if row is None:
            self._known.pop(identity, None)
            return None
        self._known[identity] = _known(row)
        return self._known[identity]

    def _count(self, key: Key) -> None:
        """Take a token from the key's bucket, which a minute fills."""
        if not key.rate_per_min:
            return
        now, per_s = time.monotonic(), key.rate_per_min / 60
        with self._lock:
            bucket = self._buckets.setdefault(key.id, _Bucket(key.rate_per_min, now))
            gained = (now - bucket.filled) * per_s
            bucket.tokens, bucket.filled = min(key.rate_per_min, bucket.tokens + gained), now
            if bucket.tokens >= 1:
                bucket.tokens -= 1
                return
            wait_s = ceil((1 - bucket.tokens) / per_s)
        words = f"This key may ask {key.rate_per_min} times a minute; ask again in {wait_s} s."
        raise Refusal("rate_exceeded", words, {"rate_per_min": key.rate_per_min}, wait_s)

    @contextmanager
    def _locked(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            yield self._database


def _salt() -> bytes:
    return secrets.token_bytes(16)


def _digest(salt: bytes, secret: str) -> bytes:
    return hmac.digest(salt, secret.encode(), "sha256")


def _known(row: tuple[str, str, bytes, bytes, str, int, int, float, float, float]) -> _Known:
    identity, name, salt, digest, scopes, rate_per_min, quota_per_day, *times = row
    created, expires, revoked = times
    key = Key(
        id=identity, name=name, scopes=tuple(scopes.split()), rate_per_min=rate_per_min,
        quota_per_day=quota_per_day, created=created, expires=expires, revoked=revoked,
    )  # fmt: skip
    return _Known(key, salt, digest, time.monotonic())
