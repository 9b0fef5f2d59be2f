import random
from datetime import UTC, datetime

import pytest

from stages.web.retries import LONGEST_PAUSE_S, Retries, retry_after_s

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def retries(attempts=5, budget_s=1000.0, seed=0):
    return Retries(attempts, budget_s, random.Random(seed))


def test_pauses_are_jittered_below_a_bound_that_doubles():
    for attempt, bound in enumerate([0.5, 1.0, 2.0, 4.0], 1):
        pauses = [retries(seed=seed).pause_s(attempt, 0.0) for seed in range(200)]
        assert max(pauses) <= bound
        assert min(pauses) < 0.05 * bound < 0.9 * bound < max(pauses)


def test_the_bound_stops_growing():
    assert max(retries(99, 1e9, seed).pause_s(50, 0.0) for seed in range(200)) <= LONGEST_PAUSE_S


def test_the_same_seed_gives_the_same_pauses():
    assert [retries().pause_s(n, 0.0) for n in (1, 2, 3)] == [
        retries().pause_s(n, 0.0) for n in (1, 2, 3)
    ]


def test_the_last_attempt_is_the_last():
    assert retries(attempts=3).pause_s(2, 0.0) is not None
    assert retries(attempts=3).pause_s(3, 0.0) is None
    assert retries(attempts=1).pause_s(1, 0.0) is None


def test_what_the_server_asks_for_is_waited_unless_the_budget_forbids():
    assert retries(budget_s=10.0).pause_s(1, 4.0, after_s=5.0) == 5.0
    assert retries(budget_s=10.0).pause_s(1, 6.0, after_s=5.0) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("Thu, 01 Jan 2026 12:00:30", 30.0),
        ("soon", 0.0),
        ("-5", 0.0),
        ("1e9", 0.0),
        ("٣", 0.0),
        ("", 0.0),
        ("9" * 5000, 999_999_999.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert retry_after_s(value, NOON) == seconds
