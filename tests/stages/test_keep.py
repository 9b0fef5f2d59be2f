from dataclasses import replace

import pytest

from infra.errors import BadValue
from stages.columns import REJECTIONS
from stages.keep import Keep, KeepRules, first_failed

GOOD = {
    "width_px": 600,
    "height_px": 800,
    "num_faces": 1,
    "face_area_shares": [0.2],
    "face_sharpness": [200.0],
    "face_yaws_deg": [5.0],
    "face_pitches_deg": [-5.0],
    "face_rolls_deg": [0.0],
    "face_exposures": [0.5],
}
RULES = KeepRules()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"width_px": 511}, "small_picture"),
        ({"num_faces": 0}, "no_face"),
        ({"num_faces": 4}, "too_many_faces"),
        ({"num_faces": 2, "face_area_shares": [0.2, 0.039]}, "small_face"),
        ({"num_faces": 2, "face_area_shares": [0.2, 0.041]}, ""),
        ({"face_sharpness": [19.0]}, "soft_face"),
        ({"face_yaws_deg": [-61.0]}, "turned_face"),
        ({"face_pitches_deg": [46.0]}, "turned_face"),
        ({"face_rolls_deg": [-46.0]}, "turned_face"),
        ({"face_exposures": [0.09]}, "dark_face"),
        ({"face_exposures": [0.93]}, "bright_face"),
        ({"width_px": 1, "num_faces": 0}, "small_picture"),
    ],
)
def test_the_first_rule_that_fails_is_named(change, reason):
    assert first_failed(GOOD | change, RULES) == reason
    assert reason == "" or reason in REJECTIONS


def test_the_quality_of_the_largest_face_decides():
    row = GOOD | {"num_faces": 2, "face_area_shares": [0.3, 0.1], "face_sharpness": [200.0, 1.0]}
    assert first_failed(row, RULES) == ""


def test_a_picture_without_faces_passes_where_none_is_wanted():
    row = GOOD | {"num_faces": 0, "face_area_shares": [], "face_sharpness": []}
    assert first_failed(row, KeepRules(min_faces=0)) == ""


def test_the_stage_judges_row_by_row():
    rows = [GOOD, GOOD | {"num_faces": 9}]
    batch = {name: [row[name] for row in rows] for name in Keep.reads}
    assert Keep(RULES)(batch) == {"rejected_by": ["", "too_many_faces"]}


@pytest.mark.parametrize(
    "change",
    [
        {"human_terms": ("peple",)},
        {"min_faces": 4},
        {"min_face_share": 4.0},
        {"min_exposure": 0.95},
    ],
)
def test_rules_that_cannot_work_are_refused(change):
    with pytest.raises(BadValue):
        replace(RULES, **change)
