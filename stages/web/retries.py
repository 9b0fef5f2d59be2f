"""Decide whether to try again, and when.

References:
    "Exponential Backoff And Jitter", https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    (full jitter); RFC 9110, section 10.2.3 (Retry-After).
"""

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


class Retries:
    """How often, and after which pauses, one picture is tried.

    Args:
        attempts: The most tries.
        budget_s: The most time over all tries and the pauses between.
        rng: Where the jitter comes from.
    """

    def __init__(self, attempts: int, budget_s: float, rng: random.Random) -> None:
        self.attempts, self.budget_s = attempts, budget_s
        self._rng = rng

    def pause_s(self, attempt: int, spent_s: float, after_s: float = 0.0) -> float | None:
        """Return how long to wait before the next try; None to give up.

        Args:
            attempt: How many tries there were.
            spent_s: How long they and the pauses took.
            after_s: How long the server asks us to wait.
        """
        if attempt >= self.attempts:
            return None
        longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1))
        pause_s = max(after_s, self._rng.uniform(0, longest_s))
        return pause_s if spent_s + pause_s < self.budget_s else None


def retry_after_s(value: str, now: datetime | None = None) -> float:
    """Read a Retry-After header, seconds or a date; what is neither asks for nothing.

    Args:
        value: The header.
        now: The present time, for a date; by default the clock's.
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
