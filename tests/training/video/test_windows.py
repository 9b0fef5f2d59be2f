"""Windows of clips: which frames are learnt, and why some are not."""

import numpy as np
import pytest

from infra.errors import BadValue
from training.video.windows import LEFT, windows, wrong_with

WINDOW = np.arange(10, 20)
FACE = np.ones((10, 4, 4), dtype=bool)


def lists(found):
    return [each.tolist() for each in found]


def test_a_clip_as_long_as_a_window_is_one():
    assert lists(windows(9, 8.0, 9, 8.0)) == [list(range(9))]


def test_one_frame_less_is_too_short():
    assert windows(8, 8.0, 9, 8.0) == "too_short"


def test_frames_are_those_nearest_to_the_wanted_rate():
    (found,) = windows(13, 24.0, 5, 8.0)
    assert found.tolist() == [0, 3, 6, 9, 12]
    (found,) = windows(13, 25.0, 5, 8.0)  # every 3.125th
    assert found.tolist() == [0, 3, 6, 9, 12]
    (found,) = windows(16, 30.0, 5, 8.0)  # every 3.75th: 0, 3.75, 7.5, 11.25, 15
    assert found.tolist() == [0, 4, 8, 11, 15]


def test_a_clip_of_fewer_frames_per_second_is_left_but_23_976_is_24():
    assert windows(100, 12.0, 9, 24.0) == "too_few_fps"
    (found,) = windows(9, 23.976, 9, 24.0)
    assert found.tolist() == list(range(9))


def test_one_window_is_the_middle():
    assert lists(windows(19, 8.0, 9, 8.0)) == [list(range(5, 14))]


@pytest.mark.parametrize(("clip", "fps"), [(100, 24.0), (61, 25.0), (300, 29.97), (27, 8.0)])
def test_windows_share_no_frame_and_lie_in_the_clip(clip, fps):
    found = windows(clip, fps, 9, 8.0, most=4)
    every = np.concatenate(found)
    assert len(set(every.tolist())) == len(every)
    assert every.min() >= 0
    assert every.max() < clip
    assert all((np.diff(each) > 0).all() for each in found)
    starts = [each[0] for each in found]
    assert starts == sorted(starts)


def test_as_many_windows_as_fit_and_no_more_than_asked_for():
    assert len(windows(26, 8.0, 9, 8.0, most=4)) == 2
    assert len(windows(27, 8.0, 9, 8.0, most=4)) == 3
    assert len(windows(27, 8.0, 9, 8.0, most=2)) == 2


def test_windows_stay_where_the_person_is_followed():
    (found,) = windows(100, 8.0, 9, 8.0, within=(40, 49))
    assert found.tolist() == list(range(40, 49))
    assert windows(100, 8.0, 9, 8.0, within=(40, 48)) == "too_short"
    assert windows(45, 8.0, 9, 8.0, within=(40, 90)) == "too_short"


@pytest.mark.parametrize("wrong", [{"wanted_frames": 0}, {"wanted_fps": 0.0}, {"most": 0}])
def test_what_could_never_be_chosen_is_refused(wrong):
    with pytest.raises(BadValue, match="give more than 0"):
        windows(**({"clip_frames": 9, "fps": 8.0, "wanted_frames": 9, "wanted_fps": 8.0} | wrong))


def test_a_window_of_one_person_with_a_mask_is_learnt():
    assert wrong_with(WINDOW, [[0, 10, 25]], 0, FACE) is None


@pytest.mark.parametrize(
    ("looks", "main", "masks", "reason"),
    [
        ([], 0, FACE, "no_track"),
        ([[12]], 1, FACE, "no_track"),
        ([[0, 9, 20]], 0, FACE, "no_track"),  # before it and after
        ([[12]], 0, None, "no_mask"),
        ([[12]], 0, ~FACE, "no_mask"),
        ([[12], [19]], 0, FACE, "several_people"),
        ([[12], [25]], 0, FACE, None),  # who comes later does not count
    ],
)
def test_what_is_wrong_with_a_window_has_a_name(looks, main, masks, reason):
    assert wrong_with(WINDOW, looks, main, masks) == reason
    assert reason is None or reason in LEFT
