"""Which of two candidate videos is better: pairs by identity, then pairs by motion.

Candidates of one prompt are compared: videos that the tuned model drew, videos that its base drew,
and videos at rest that are a reference photograph all the time. Scores are greater for the better:
identity as FaceSim over frames (``training.video.metrics.likeness``), dynamics as flow in diagonals
per second (``training.video.motion.measure_motion``), prompt as CLIP-T over frames.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from infra.errors import BadValue
from stages.types import RGB

Source = Literal["tuned", "base", "static"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A video that may win or lose, with its scores; nan: could not be measured."""

    id: str
    """Of its sample in the prepared features."""
    prompt: str
    """What it was asked for with; of a static video empty: it stands beside every prompt."""
    source: Source
    """Who drew it; static: nobody, it is a photograph."""
    identity: float
    dynamics: float
    follows: float = 0.0
    """How well it follows its prompt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What makes one video better than another; the numbers are ours, the paper gives none."""

    identity_margin: float = 0.05
    """Stage 1: so much more identity wins."""
    dynamics_tolerance: float = 0.1
    """Stage 1: if it costs no more than so much motion."""
    dynamics_margin: float = 0.02
    """Stage 2: so much more motion wins."""
    least_follows: float = float("-inf")
    """Who follows the prompt less wins nothing."""
    most_per_prompt: int = 64
    """Pairs of each stage and prompt that are kept, the clearest first."""

    def __post_init__(self) -> None:
        for name in ("identity_margin", "dynamics_tolerance", "dynamics_margin"):
            if getattr(self, name) < 0:
                raise BadValue(name, getattr(self, name), "give 0 or more.")
        if self.most_per_prompt < 1:
            raise BadValue("most_per_prompt", self.most_per_prompt, "give 1 or more.")


@dataclass(frozen=True, slots=True)
class Preference:
    """One pair, by ids of samples."""

    winner: str
    loser: str
    told: str
    """Whose text both are told: the loser's, where the winner is a photograph without a prompt."""
    stage: int
    """1: the winner keeps the person better; 2: it moves more, and keeps the person as well."""


@dataclass(frozen=True)
class Mined:
    """The pairs that were found, and what became of all others."""

    pairs: list[Preference]
    """By stage; in stage 1 those whose winner is static come first, then the clearest."""
    left_out: Counter[str]
    """Pairs that were looked at and not kept, and candidates without a score, by reason."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A pair before it is known whether it is kept."""

    stage: int
    winner: Candidate
    loser: Candidate

    @property
    def order(self) -> tuple[int, bool, float, str, str]:
        """What pairs are sorted by."""
        name = "identity" if self.stage == 1 else "dynamics"
        gap = getattr(self.winner, name) - getattr(self.loser, name)
        return self.stage, self.winner.source != "static", -gap, self.winner.id, self.loser.id

    def named(self) -> Preference:
        told = self.winner if self.winner.prompt else self.loser
        return Preference(self.winner.id, self.loser.id, told.id, self.stage)


def mine(candidates: Sequence[Candidate], rules: Rules | None = None) -> Mined:
    """Make pairs of the candidates of each prompt.

    Stage 1: whoever keeps the person better by the margin wins, if it does not move less by more
    than the tolerance. Static videos win most of these. Stage 2: on the Pareto frontier of identity
    and dynamics of the drawn videos, a video wins over those that it dominates: at least as much
    identity, and more dynamics by the margin; static videos, which never move, take no part. A pair
    may be of both stages.

    Reasons in ``Mined.left_out``, one for each pair that is of no stage: ``tie`` (neither is better
    by a margin), ``costs motion`` (more identity, and more motion lost than is tolerated), ``off
    the frontier`` (better in both, and itself dominated), ``off the prompt`` (the winner follows it
    too little), ``both static``; ``beyond the most``, of those that the clearest leave no room for;
    and ``unmeasured`` candidates.

    Args:
        candidates: Each with its scores.
        rules: What is better than what.

    Raises:
        BadValue: Two candidates have one id.

    References:
        MagicID, arXiv:2503.12689: static videos first, with a dynamic tolerance, then the frontier.
        How scores become pairs, the margins and the words above are ours.
    """
    rules, left_out = rules or Rules(), Counter[str]()
    twice = [id_ for id_, many in Counter(each.id for each in candidates).items() if many > 1]
    if twice:
        raise BadValue("candidates", twice[0], "two have this id; give each its own.")
    kept: list[_Found] = []
    for group in _by_prompt(candidates, left_out):
        frontier = pareto_frontier([each for each in group if each.source != "static"])
        there: dict[int, list[_Found]] = {1: [], 2: []}
        for one, other in combinations(group, 2):
            found, why = _judge(one, other, frontier, rules)
            for pair in found:
                there[pair.stage].append(pair)
            if not found:
                left_out[why] += 1
        for pairs in there.values():
            pairs.sort(key=lambda pair: pair.order)
            kept += pairs[: rules.most_per_prompt]
            left_out["beyond the most"] += len(pairs[rules.most_per_prompt :])
    kept.sort(key=lambda pair: pair.order)
    return Mined([pair.named() for pair in kept], +left_out)


def pareto_frontier(candidates: Sequence[Candidate]) -> set[str]:
    """Return the ids of those that nobody beats in identity and dynamics at once.

    A candidate is beaten by one that has at least as much of both and more of one.
    """
    return {
        each.id
        for each in candidates
        if not any(
            other.identity >= each.identity
            and other.dynamics >= each.dynamics
            and (other.identity, other.dynamics) != (each.identity, each.dynamics)
            for other in candidates
        )
    }


def at_rest(photo: RGB, frames: int) -> UInt8[np.ndarray, "frames height width 3"]:
    """Make a static video of a photograph: the same frame all the time."""
    return np.repeat(photo[None], frames, axis=0)


def _by_prompt(
    candidates: Sequence[Candidate], left_out: Counter[str]
) -> Iterator[list[Candidate]]:
    """Yield the candidates of each prompt, static ones beside all of them."""
    groups: dict[str, list[Candidate]] = defaultdict(list)
    static: list[Candidate] = []
    for each in candidates:
        if np.isnan([each.identity, each.dynamics, each.follows]).any():
            left_out["unmeasured"] += 1
        elif each.source == "static":
            static.append(each)
        else:
            groups[each.prompt].append(each)
    for _, drawn in sorted(groups.items()):
        yield [*static, *drawn]


def _judge(
    one: Candidate, other: Candidate, frontier: set[str], rules: Rules
) -> tuple[list[_Found], str]:
    """Return the stages that a pair is of, or why it is of none."""
    if one.source == other.source == "static":
        return [], "both static"
    why, found = "tie", []
    for winner, loser in ((one, other), (other, one)):
        keeps, moves = winner.identity - loser.identity, winner.dynamics - loser.dynamics
        stages = []
        if keeps > 0 and keeps >= rules.identity_margin:
            stages += [1] if -moves <= rules.dynamics_tolerance else []
            why = why if stages else "costs motion"
        both_drawn = "static" not in (winner.source, loser.source)
        if both_drawn and keeps >= 0 and moves > 0 and moves >= rules.dynamics_margin:
            stages += [2] if winner.id in frontier else []
            why = why if stages else "off the frontier"
        if stages and winner.follows < rules.least_follows:
            why, stages = "off the prompt", []
        found += [_Found(stage, winner, loser) for stage in stages]
    return found, why
