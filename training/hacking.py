"""Is a reward being hacked? CLIP-T, which nothing descends, says so while it happens.

A network that is rewarded for the face alone soon draws the face and no longer what was asked for.
"""

from pathlib import Path
from statistics import fmean

from training.loop import REPORTS, Report, read_reports

WATCHED = "reward_clip_t"
FALL = 0.03
"""Share of CLIP-T, as it was at first, whose loss is told: half of what ID-Aligner lost, from 22.0
to 20.6 (arXiv:2404.15449)."""
OVER = 3
"""Reports of which each side of the comparison is the mean: one alone is of few samples."""


class Hacked:
    """Compares the latest CLIP-T of a run with its first; to be called with each report, in turn.

    Without ``losses.reward_watch`` there is none, and nothing is ever said.
    """

    def __init__(self, out: Path) -> None:
        """Read what a run has told so far."""
        self._told = {report.step: _clip_t(report) for report in read_reports(out / REPORTS)}
        self._said = False

    def __call__(self, report: Report) -> str:
        """Return a sentence, once, when CLIP-T has fallen by ``FALL``; else nothing."""
        self._told[report.step] = _clip_t(report)
        # Not those after this one, which were told before a crash and are told again.
        so_far = [self._told[step] for step in sorted(self._told) if step <= report.step]
        known = [value for value in so_far if value == value]
        if self._said or len(known) < 2 * OVER:
            return ""
        first, last = fmean(known[:OVER]), fmean(known[-OVER:])
        self._said = first - last > FALL * abs(first)
        if not self._said:
            return ""
        return (
            f"CLIP-T has fallen from {first:.3f} to {last:.3f} by step {report.step}: pictures "
            "follow their captions less, so the reward is being hacked. Take an earlier "
            "checkpoint; lower losses.reward, or set losses.reward_scorer and reward_aesthetic."
        )


def _clip_t(report: Report) -> float:
    return report.losses.get(WATCHED, float("nan"))
