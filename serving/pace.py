"""How fast a device is, learnt from what it did: so that a queue can say how long it will take."""

from bisect import bisect_left

_NEW = 0.3
"""Weight of the latest batch against those before."""
_DEVIATIONS = 2.0
"""How far beyond the mean a promise reaches."""


class Pace:
    """Seconds that batches take, by their size.

    Work is counted in any unit that time is proportional to, such as steps times pixels. Mean and
    mean deviation are those of TCP's retransmission timer.

    References:
        Jacobson, "Congestion Avoidance and Control", SIGCOMM 1988.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        # Of a batch, per unit of each picture's work: mean and mean deviation.
        self._s: dict[int, tuple[float, float]] = {}
        self.pictures_per_s = 0.0
        """Lately; 0 before the first batch."""

    def saw(self, pictures: int, work: float, seconds: float) -> None:
        """Learn from a batch that was not stopped.

        Args:
            pictures: How many were drawn together.
            work: Of each picture.
            seconds: What all of them took.
        """
        seconds = max(seconds, 1e-6)
        lately = pictures / seconds
        self.pictures_per_s += (_NEW if self.pictures_per_s else 1.0) * (
            lately - self.pictures_per_s
        )
        each = seconds / work
        mean, off = self._s.get(pictures, (each, 0.0))
        self._s[pictures] = mean + _NEW * (each - mean), off + _NEW * (abs(each - mean) - off)

    def seconds(self, pictures: int, work: float, *, surely: bool = False) -> float:
        """Predict a batch: as those of its size, or in proportion to the nearest size seen.

        Args:
            pictures: How many are drawn together.
            work: Of each picture.
            surely: Say in how many seconds it is almost certainly done, rather than the mean.

        Returns:
            Seconds; 0 before the first batch.
        """
        if not self._s:
            return 0.0
        sizes = sorted(self._s)
        at = bisect_left(sizes, pictures)
        near = min(sizes[max(at - 1, 0) : at + 1], key=lambda size: abs(size - pictures))
        mean, off = self._s[near]
        return (mean + _DEVIATIONS * off * surely) * work * pictures / near
