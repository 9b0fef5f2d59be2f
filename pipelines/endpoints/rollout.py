"""A new version beside the served one, until it has proven itself or failed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from infra.errors import BadValue
from infra.released import ModelVersion
from pipelines.deploy import Plan
from pipelines.endpoints import deployed
from serving.remote import Outcome

SIGNIFICANT = 0.05
"""One-sided: how unlikely a difference by chance must be for the new version to be blamed."""
SLOWER = 1.25
"""How much longer its slow requests (p95) may take."""
_POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How the requests to one version ended."""

    model: str
    requests: int
    refused: int
    failed: int
    p50_s: float
    p95_s: float
    """Of those that were drawn; 0: none was."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a new version takes over, and why."""

    promoted: bool
    reason: str
    served: Tally
    candidate: Tally


def tally(model: str, outcomes: Sequence[Outcome]) -> Tally:
    """Count outcomes of one version."""
    kinds = [outcome.kind for outcome in outcomes]
    drawn_s = [outcome.seconds for outcome in outcomes if outcome.kind == "drawn"]
    p50_s, p95_s = np.quantile(drawn_s, [0.5, 0.95]) if drawn_s else (0.0, 0.0)
    return Tally(
        model=model,
        requests=len(kinds),
        refused=kinds.count("refused"),
        failed=kinds.count("failed"),
        p50_s=float(p50_s),
        p95_s=float(p95_s),
    )


def judge(served: Tally, candidate: Tally, least: int) -> Verdict:
    """Compare two versions; the new one must not be worse.

    More failures or refusals count against it when Fisher's exact test, one-sided, finds them
    less likely by chance than ``SIGNIFICANT``; so does a p95 beyond ``SLOWER`` times the other's.

    Args:
        served: The version that is served.
        candidate: The new one.
        least: Requests that the new one must have had.

    References:
        Fisher, "The Logic of Inductive Inference", JRSS 98, 1935.
    """

    def say(promoted: bool, reason: str) -> Verdict:
        return Verdict(promoted=promoted, reason=reason, served=served, candidate=candidate)

    if candidate.requests < least or not served.requests:
        words = f"{candidate.requests} and {served.requests} requests in the time given"
        return say(False, f"too few to tell: {words}, {least} are needed of the new version")
    for what, theirs, ours in (
        ("failed", candidate.failed, served.failed),
        ("refused", candidate.refused, served.refused),
    ):
        chance = _chance(theirs, candidate.requests, ours, served.requests)
        if chance < SIGNIFICANT:
            shares = f"{theirs}/{candidate.requests} against {ours}/{served.requests}"
            return say(False, f"more of its requests {what}: {shares}, p = {chance:.2g}")
    if candidate.p95_s > SLOWER * served.p95_s:
        words = f"{candidate.p95_s:.3g} s against {served.p95_s:.3g} s"
        return say(False, f"p95 is beyond {SLOWER:g} times the served version's: {words}")
    return say(True, f"not worse in {candidate.requests} requests")


def attempt(
    made: Plan,
    *,
    percent: float,
    least: int,
    within_s: float,
    timeout_s: float,
    watch: Callable[[Tally, Tally], object] = lambda *_: None,
) -> Verdict | None:
    """Let a version draw a share of the requests; then let it take over, or go.

    Interrupted, the served version draws everything again.

    Args:
        made: Names the new version.
        percent: Of the requests.
        least: Requests that it must have had to be judged.
        within_s: How long that may take.
        timeout_s: How long it may take to load.
        watch: Told of the tallies so far, now and then.

    Returns:
        The verdict; None: that version is served already.

    Raises:
        BadValue: Nothing is deployed that it could be compared with.
        NotDeployed: Its files are refused; the served version stays.
    """
    version = made.version
    now = deployed.state()
    served = now.version
    if served is None:
        cure = "no released model is deployed there yet; deploy one without --canary first."
        raise BadValue("--canary", percent, cure)
    if version is None or served.name != version.name:
        cure = f"{served.name} is deployed; only another version of it can be tried beside it."
        raise BadValue("--canary", made.asked.model, cure)
    if version.reference == served.reference:
        return None
    from serving.outcomes import outcomes

    board = outcomes()
    _get(board.clear.remote())
    promoted = False
    try:
        for share in (0.0, percent):  # first loaded everywhere, then asked
            deployed.apply(deployed.configuration(now.recipe, served, version, share), timeout_s)
        verdict = _watch(board, served, version, least, within_s, watch)
        promoted = verdict.promoted
    finally:
        stays = version if promoted else served
        deployed.apply(deployed.configuration(now.recipe, stays), timeout_s)
    return verdict


def table(served: Tally, candidate: Tally) -> Table:
    """Show two versions side by side."""
    shown = Table("version", "requests", "refused", "failed", "p50 s", "p95 s", box=None)
    for one in (served, candidate):
        shown.add_row(
            one.model, str(one.requests), str(one.refused), str(one.failed),
            f"{one.p50_s:.3f}", f"{one.p95_s:.3f}",
        )  # fmt: skip
    return shown


def _watch(
    board: Any,  # noqa: ANN401 - an actor's handle
    served: ModelVersion,
    version: ModelVersion,
    least: int,
    within_s: float,
    watch: Callable[[Tally, Tally], object],
) -> Verdict:
    until = time.monotonic() + within_s
    while True:
        seen: list[Outcome] = _get(board.read.remote())
        ours, theirs = (
            tally(name, [outcome for outcome in seen if outcome.model == key])
            for name, key in ((served.reference, "served"), (version.reference, version.reference))
        )
        watch(ours, theirs)
        verdict = judge(ours, theirs, least)
        # What is plainly worse need not go on until the end.
        doomed = theirs.requests >= 20 and not judge(ours, theirs, 20).promoted
        if theirs.requests >= least or doomed or time.monotonic() > until:
            return judge(ours, theirs, 20) if doomed else verdict
        time.sleep(_POLL_S)


def _chance(theirs: int, of_them: int, ours: int, of_us: int) -> float:
    """Return how likely at least so many are by chance, if both versions are alike."""
    from scipy.stats import fisher_exact  # half a second

    counts = [[theirs, of_them - theirs], [ours, of_us - ours]]
    return float(fisher_exact(counts, alternative="greater").pvalue)


def _get(reference: Any) -> Any:  # noqa: ANN401 - ray is not typed
    import ray

    return ray.get(reference)
