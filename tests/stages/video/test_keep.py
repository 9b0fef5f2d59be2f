"""Which clips are kept, rule by rule; and what ConsisID's own rules let pass."""

from dataclasses import replace

import numpy as np
import pytest

from infra.errors import BadValue
from stages.columns import REJECTIONS
from stages.models.faces import GroupingPoints
from stages.types import Stage
from stages.video.keep import KeepVideo, KeepVideoRules, first_failed, grouped, main_first

POINTS = GroupingPoints(
    metric="cosine", pair_below=0.05, group_below=0.07, labelled_below=0.1, duplicate_below=0.01
)
RULES = KeepVideoRules()
LOOKS = list(range(100, 200, 5))


def track(number=0, frames=LOOKS, side_px=200, person=0, **changes):
    """A track whose face is a square; ``person`` is the axis on which its vector lies."""
    looks, box_px = len(frames), [10, 20, 10 + side_px, 20 + side_px]
    blank = {
        "track_id": number, "frames": list(frames), "boxes_px": [box_px] * looks,
        "sharpness": [100.0] * looks, "yaws_deg": [5.0] * looks, "pitches_deg": [0.0] * looks,
        "rolls_deg": [0.0] * looks, "embedding": np.eye(4, dtype=np.float32)[person].tolist(),
    }  # fmt: skip
    return blank | changes


GOOD = {
    "width_px": 640, "height_px": 360, "start_frame": 100, "end_frame": 200, "motion": 0.02,
    "sharpness_p10": 100.0, "black_share": 0.0, "frozen_share": 0.0, "text_share": None,
    "tracks": [track()],
}  # fmt: skip


def failed(row, rules=RULES):
    reason = first_failed(row, rules, 5, POINTS)
    assert reason == "" or reason in REJECTIONS
    return reason


def series(looks, turned, angle):
    return [angle if look < turned else 0.0 for look in range(looks)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"height_px": 255}, "small_picture"),
        ({"end_frame": 148}, "short_clip"),
        ({"black_share": 0.06}, "black_clip"),
        ({"frozen_share": 0.51}, "frozen_clip"),
        ({"text_share": 0.051}, "written_clip"),
        ({"text_share": 0.05}, ""),
        ({"sharpness_p10": 4.9}, "soft_clip"),
        ({"motion": 0.0009}, "still_clip"),
        ({"motion": 1.1}, "wild_clip"),
        ({"tracks": []}, "no_face"),
        ({"tracks": [track(frames=LOOKS[:9])]}, "short_track"),
        ({"tracks": [track(side_px=67)]}, "small_face"),
        ({"tracks": [track(side_px=430)]}, "large_face"),
        ({"tracks": [track(sharpness=[19.0] * 11 + [500.0] * 9)]}, "soft_face"),
        ({"tracks": [track(yaws_deg=series(20, 3, -61.0))]}, "turned_face"),
        ({"tracks": [track(yaws_deg=series(20, 2, -61.0))]}, ""),
        ({"tracks": [track(pitches_deg=series(20, 3, 46.0))]}, "turned_face"),
        ({"tracks": [track(rolls_deg=series(20, 3, -46.0))]}, "turned_face"),
        ({"motion": 0.0, "tracks": []}, "still_clip"),
    ],
)
def test_the_first_rule_that_fails_is_named(change, reason):
    assert failed(GOOD | change) == reason


def test_many_short_gaps_are_a_long_one():
    # Every other look is missing: each gap is 2.5 % of the clip, which ConsisID lets pass.
    assert failed(GOOD | {"tracks": [track(frames=LOOKS[::2])]}) == "short_track"
    assert failed(GOOD | {"tracks": [track(frames=LOOKS[2:])]}) == ""


def test_a_look_stands_for_the_frames_up_to_the_next():
    brief = GOOD | {"end_frame": 149, "tracks": [track(frames=LOOKS[:10])]}
    assert failed(brief) == ""
    assert failed(brief | {"tracks": [track(frames=LOOKS[1:10])]}) == "short_track"


def test_a_face_may_not_be_of_any_size():
    speck = GOOD | {"tracks": [track(side_px=8)]}
    assert failed(speck) == "small_face"
    assert failed(speck, replace(RULES, min_face_share=0.0)) == ""


def test_two_who_take_turns_are_two():
    # At no moment are there two faces, so the most boxes of a frame, ConsisID's count, is one.
    turns = [track(0, LOOKS[:11]), track(1, LOOKS[11:], person=1)]
    assert failed(GOOD | {"tracks": turns}) == "no_main_person"
    assert failed(GOOD | {"tracks": turns}, replace(RULES, max_people=1)) == "too_many_faces"


def test_a_face_that_was_lost_and_found_is_no_second_person():
    parts = [track(0, LOOKS[:18]), track(1, LOOKS[19:])]
    assert [len(each) for each in grouped(parts, POINTS)] == [2]
    assert failed(GOOD | {"tracks": parts}, replace(RULES, max_people=1)) == ""


def test_twins_in_one_frame_are_two():
    twins = [track(0), track(1, side_px=190)]
    assert len(grouped(twins, POINTS)) == 2
    assert failed(GOOD | {"tracks": twins}) == "no_main_person"


def test_who_stands_behind_does_not_matter():
    small = track(1, side_px=60, person=1)
    assert failed(GOOD | {"tracks": [small | {"track_id": 0}, track(1)]}) == ""
    assert [t["track_id"] for t in main_first([small | {"track_id": 0}, track(1)])] == [1, 0]


def test_more_people_than_allowed_are_too_many():
    crowd = [track(n, side_px=200 - 50 * min(n, 2), person=n) for n in range(4)]
    assert failed(GOOD | {"tracks": crowd}) == "too_many_faces"


def test_the_stage_says_who_is_who_and_puts_the_main_person_first():
    small = track(0, side_px=60, person=1)
    rows = [GOOD | {"tracks": [small, track(1)]}, GOOD | {"tracks": []}]
    stage = KeepVideo(RULES, 5, POINTS)
    assert isinstance(stage, Stage)
    out = stage({name: [row[name] for row in rows] for name in KeepVideo.reads})
    assert tuple(out) == KeepVideo.writes
    assert out["rejected_by"] == ["", "no_face"]
    assert out["main_track"] == [1, None]
    assert out["num_faces"] == [2, 0]
    assert out["face_embeddings"] == [[track(1)["embedding"], small["embedding"]], []]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"min_frames": 0}, "keep.min_frames cannot be 0"),
        ({"max_people": 0}, "keep.max_people cannot be 0"),
        ({"min_seen_share": 1.1}, "keep.min_seen_share cannot be 1.1"),
        ({"min_motion": 2.0}, r"keep.min_motion cannot be 2.0: give 0 to keep.max_motion \(1\)"),
        ({"min_face_share": 0.9}, "keep.min_face_share cannot be 0.9"),
        ({"max_yaw_deg": 0.0}, "keep.max_yaw_deg cannot be 0.0"),
        ({"human_terms": ("cats",)}, "keep.human_terms cannot be 'cats'"),
    ],
)
def test_rules_that_cannot_work_are_refused(change, said):
    with pytest.raises(BadValue, match=said):
        KeepVideoRules(**change)
