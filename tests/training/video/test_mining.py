import numpy as np
import pytest

from infra.errors import BadValue
from training.video.mining import Candidate, Preference, Rules, at_rest, mine, pareto_frontier


def drawn(name, identity, dynamics, *, prompt="a walk", source="tuned", follows=0.3):
    return Candidate(
        id=name, prompt=prompt, source=source, identity=identity, dynamics=dynamics,
        follows=follows,
    )  # fmt: skip


def photo(name, identity=0.9):
    return drawn(name, identity, 0.0, prompt="", source="static")


RULES = Rules(identity_margin=0.1, dynamics_tolerance=0.3, dynamics_margin=0.1)


def test_a_static_video_wins_by_identity_where_it_costs_no_more_motion_than_is_tolerated():
    found = mine([photo("photo"), drawn("calm", 0.5, 0.2), drawn("wild", 0.5, 0.9)], RULES)
    stage_1 = [pair for pair in found.pairs if pair.stage == 1]
    assert stage_1 == [Preference("photo", "calm", "calm", 1)], "the prompt is the drawn video's"
    assert found.left_out == {"costs motion": 1}


def test_on_the_frontier_more_motion_wins_over_whoever_it_dominates():
    best, still, worst = (
        drawn("best", 0.6, 0.8),
        drawn("still", 0.8, 0.1),
        drawn("worst", 0.55, 0.3),
    )
    found = mine([best, still, worst], RULES)
    assert [p for p in found.pairs if p.stage == 2] == [Preference("best", "worst", "best", 2)]
    assert pareto_frontier([best, still, worst]) == {"best", "still"}


def test_who_is_dominated_wins_nothing_in_the_second_stage():
    found = mine([drawn("a", 0.6, 0.9), drawn("b", 0.59, 0.5), drawn("c", 0.58, 0.1)], RULES)
    assert {(p.winner, p.loser) for p in found.pairs} == {("a", "b"), ("a", "c")}
    assert found.left_out == {"off the frontier": 1}


def test_static_pairs_come_first_then_other_pairs_by_identity_then_those_by_motion():
    found = mine([drawn("low", 0.3, 0.2), drawn("high", 0.8, 0.4), photo("photo")], RULES)
    assert [(p.winner, p.loser, p.stage) for p in found.pairs] == [
        ("photo", "low", 1), ("high", "low", 1), ("high", "low", 2),
    ]  # fmt: skip


def test_ties_are_named_and_counted():
    same = [drawn("a", 0.5, 0.5), drawn("b", 0.5, 0.5), drawn("c", 0.52, 0.45)]
    found = mine(same, RULES)
    assert found.pairs == []
    assert found.left_out == {"tie": 3}
    no_margin = Rules(identity_margin=0.0, dynamics_margin=0.0)
    assert mine(same[:2], no_margin).left_out == {"tie": 1}, "equal is a tie at any margin"


def test_only_videos_of_one_prompt_are_compared():
    found = mine([drawn("a", 0.9, 0.9), drawn("b", 0.1, 0.1, prompt="a swim")], RULES)
    assert (found.pairs, found.left_out) == ([], {})


def test_photographs_are_not_compared_and_what_was_not_measured_is_counted():
    found = mine([photo("p"), photo("q"), drawn("a", float("nan"), 0.1), drawn("b", 0.5, 0.1)])
    assert {(p.winner, p.loser) for p in found.pairs} == {("p", "b"), ("q", "b")}
    assert found.left_out == {"unmeasured": 1, "both static": 1}


def test_a_winner_that_forgets_its_prompt_wins_nothing():
    rules = Rules(least_follows=0.25)
    found = mine([drawn("a", 0.9, 0.5, follows=0.2), drawn("b", 0.1, 0.5)], rules)
    assert (found.pairs, found.left_out) == ([], {"off the prompt": 1})


def test_the_clearest_pairs_are_kept_where_there_are_too_many():
    group = [drawn(str(i), 0.1 * i, 0.5) for i in range(5)]
    found = mine(group, Rules(most_per_prompt=1))
    assert found.pairs == [Preference("4", "0", "4", 1)]
    assert found.left_out == {"beyond the most": 9}


def test_the_order_of_candidates_changes_nothing():
    group = [photo("p"), *(drawn(str(i), 0.1 * (i % 4), 0.1 * (i % 3)) for i in range(8))]
    assert mine(group[::-1], RULES).pairs == mine(group, RULES).pairs


def test_two_candidates_of_one_id_and_margins_below_0_are_refused():
    with pytest.raises(BadValue, match="two have this id"):
        mine([photo("p"), photo("p")])
    with pytest.raises(BadValue, match="give 0 or more"):
        Rules(identity_margin=-0.1)


def test_a_photograph_at_rest_is_the_same_frame_all_the_time():
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    video = at_rest(picture, 5)
    assert video.shape == (5, 4, 6, 3)
    assert (video == picture).all()
