from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from serving.errors import Refusal
from serving.people.consent import given
from serving.people.schemas import ConsentAsk, EnrolAsk

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def ask(**changes):
    fields = {"purpose": "a", "evidence": "b", "until": NOW + timedelta(days=30)}
    return ConsentAsk(**(fields | changes))


def test_a_consent_begins_now_unless_it_says_otherwise():
    now = NOW.timestamp()
    assert given(ask(), now).granted_at == now
    before = NOW - timedelta(days=9)
    held = given(ask(granted_at=before, subject_name="Ada"), now)
    assert (held.granted_at, held.subject_name) == (before.timestamp(), "Ada")


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        (None, "consent_missing", "send `consent`"),
        (ask(until=NOW), "consent_expired", "ended on 2026-11-21"),
        (ask(granted_at=NOW + timedelta(days=1)), "consent_in_future", "begins on 2026-11-22"),
        (ask(until=NOW + timedelta(days=9999)), "invalid_value", "within 3653 days"),
        (ask(until=datetime.max.replace(tzinfo=UTC)), "invalid_value", "within 3653 days"),
        (ask(granted_at=datetime.min.replace(tzinfo=UTC)), "invalid_value", "since 1970"),
        (ask(until=datetime.min.replace(tzinfo=UTC)), "consent_expired", "ended on 0001-01-01"),
    ],
)
def test_a_consent_that_does_not_hold_is_refused(asked, code, words):
    with pytest.raises(Refusal) as no:
        given(asked, NOW.timestamp())
    assert no.value.code == code
    assert words in no.value.message


def test_clocks_may_differ_by_a_minute():
    assert given(ask(granted_at=NOW + timedelta(seconds=59)), NOW.timestamp())


@pytest.mark.parametrize(
    "changes",
    [
        {"until": "2026-12-01"}, {"until": "2026-12-01T00:00:00"}, {"purpose": ""},
        {"purpose": "x" * 501}, {"evidence": "a\0b"}, {"name": "Ada"}, {"until": None},
    ],
)  # fmt: skip
def test_a_consent_of_another_shape_is_refused(changes):
    with pytest.raises(ValidationError):
        ask(**changes)


def test_a_forms_text_is_read_as_json():
    text = '{"purpose": "a", "evidence": "b", "until": "2027-01-01T00:00:00+01:00"}'
    asked = EnrolAsk(photos=[b"x"], consent=text)
    assert asked.consent.until == datetime(2026, 12, 31, 23, tzinfo=UTC)
    for broken in ("{", "[" * 100_000, b"\xff"):
        with pytest.raises(Refusal, match="not JSON"):
            EnrolAsk(photos=[b"x"], consent=broken)
