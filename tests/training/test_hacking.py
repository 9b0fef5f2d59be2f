"""CLIP-T that falls is told while it falls."""

import json
from dataclasses import asdict

import pytest

from training.hacking import FALL, OVER, Hacked
from training.loop import REPORTS, Report

FELL = 22.0 - 20.6


def report(step, clip_t=None):
    losses = {"loss": 1.0} if clip_t is None else {"loss": 1.0, "reward_clip_t": clip_t}
    return Report(step, losses, 1e-4, 1.0, 0, 1.0, 0.0)


def told(out, values, first=1):
    hacked = Hacked(out)
    return [hacked(report(step, value)) for step, value in enumerate(values, start=first)]


def keep(out, *reports):
    out.joinpath(REPORTS).write_text("".join(json.dumps(asdict(r)) + "\n" for r in reports))


def test_the_paper_s_fall_is_told_once_in_a_sentence(tmp_path):
    said = told(tmp_path, [0.22] * 4 + [0.206] * 4)
    assert [step for step, words in enumerate(said, start=1) if words] == [6]
    assert "CLIP-T has fallen from 0.220 to 0.211 by step 6" in said[5]
    assert FELL / 22.0 > FALL


def test_what_does_not_fall_or_not_so_far_is_not_told(tmp_path):
    for later in (0.3, 0.22, 0.22 * (1 - FALL / 2)):
        assert not any(told(tmp_path, [0.22] * OVER + [later] * 9))


def test_a_single_low_report_is_no_fall(tmp_path):
    assert not any(told(tmp_path, [0.22] * 6 + [0.21] + [0.22] * 6))


def test_a_negative_clip_t_falls_away_from_zero(tmp_path):
    assert not any(told(tmp_path, [-0.2] * 3 + [-0.19] * 6))
    assert any(told(tmp_path, [-0.2] * 3 + [-0.21] * 6))


@pytest.mark.parametrize("value", [None, float("nan")])
def test_reports_without_clip_t_do_not_count(tmp_path, value):
    assert not any(told(tmp_path, [value] * 20))
    said = told(tmp_path, [0.22, value, 0.22, 0.22, value, 0.1, value, 0.1, 0.1])
    assert [step for step, words in enumerate(said, start=1) if words] == [9]


def test_a_run_that_goes_on_is_compared_with_its_own_beginning(tmp_path):
    before = [report(step, 0.22) for step in range(1, 5)]
    lost = [report(step, 0.01) for step in (5, 6, 7)]
    keep(tmp_path, *before, *lost)
    assert not any(told(tmp_path, [0.22] * 3, first=5)), "what was told after the checkpoint"
    keep(tmp_path, *before)
    assert any(told(tmp_path, [0.20] * 3, first=5))
