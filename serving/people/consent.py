"""What somebody agreed to: what for, from when, until when, and where that is written down."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from serving.errors import Refusal
from serving.people.schemas import ConsentAsk

CLOCKS_S = 60.0
"""How far the clocks of clients may be ahead of ours."""
LONGEST_DAYS = 3653
"""Ten years: a consent without an end is none."""
_DAY_S = 86400


@dataclass(frozen=True, kw_only=True, slots=True)
class Consent:
    """A record of consent; times in seconds since 1970."""

    purpose: str
    evidence: str
    """Reference to the signed form, the recording, ...; not the thing itself."""
    granted_at: float
    until: float
    subject_name: str = ""


def given(ask: ConsentAsk | None, now: float | None = None) -> Consent:
    """Check a consent that was sent.

    Args:
        ask: What was sent.
        now: Seconds since 1970; None: now.

    Raises:
        Refusal: ``consent_missing``, ``consent_expired``, ``consent_in_future``, or
            ``invalid_value`` for one that ends before it begins or goes on for too long.
    """
    now = time.time() if now is None else now
    if ask is None:
        words = "Nobody is enrolled without a record of their consent: send `consent`."
        raise Refusal("consent_missing", words, {"field": "consent"})
    until = ask.until.timestamp()
    granted_at = now if ask.granted_at is None else ask.granted_at.timestamp()
    if until <= now:
        raise expired(until)
    if granted_at > now + CLOCKS_S:
        words = f"This consent begins on {day(granted_at)}; enrol then."
        raise Refusal("consent_in_future", words, {"field": "consent.granted_at"})
    if until > now + LONGEST_DAYS * _DAY_S:
        words = f"consent.until: give a day within {LONGEST_DAYS} days; it can be renewed."
        raise Refusal("invalid_value", words, {"field": "consent.until"})
    if granted_at < 0:
        words = "consent.granted_at: give a day since 1970."
        raise Refusal("invalid_value", words, {"field": "consent.granted_at"})
    return Consent(
        purpose=ask.purpose, evidence=ask.evidence, subject_name=ask.subject_name,
        granted_at=granted_at, until=until,
    )  # fmt: skip


def expired(until: float) -> Refusal:
    """Say that a consent has ended."""
    words = f"This consent ended on {day(until)}; ask for a new one, and renew the enrolment."
    return Refusal("consent_expired", words, {"until": moment(until).isoformat()})


def moment(seconds: float) -> datetime:
    """Return a time as answers show it."""
    return datetime.fromtimestamp(round(seconds, 3), UTC)


def day(seconds: float) -> str:
    """Return the day of a time, in UTC."""
    return moment(seconds).date().isoformat()
