"""Which moments are brought together, and that none shows what is to be made."""

from dataclasses import fields, replace

import numpy as np
import pytest

from infra.errors import BadValue
from pipelines.video.exported import CLIPS, Clip, Track
from pipelines.video.pairs import pair_clips, worth
from pipelines.video.recipes import VideoPairSettings

SETTINGS = VideoPairSettings(window_frames=20, per_clip=2)


def track(number, person, start, frames, sharpest=2):
    looks = list(range(start, start + frames, 5))
    many = [0.0] * len(looks)
    boxes = [[float(look), 1.0, look + 50.0, 60.0] for look in looks]
    sharp = [900.0 if at == sharpest % len(looks) else 100.0 for at in range(len(looks))]
    return Track(number, looks[0], looks[-1] + 1, looks, boxes, [1.0] * len(looks), [[0.0] * 10],
                 many, many, many, sharp, [1.0], len(looks), looks[0], person)  # fmt: skip


def clip(name, person, frames=40, video="v", start=100, sharpest=2, more=()):
    blank = {f.name: "" for f in fields(Clip)}
    tracks = [track(0, person, start, frames, sharpest), *more]
    known = {
        "id": name, "video_id": video, "frames": frames, "start_frame": start,
        "end_frame": start + frames, "person": person, "main_track": 0, "tracks": tracks,
    }  # fmt: skip
    return Clip(**blank | known)


def test_the_fields_of_a_clip_are_the_columns():
    assert [field.name for field in fields(Clip)] == CLIPS.names


def test_a_moment_lies_outside_its_target_by_a_margin():
    (pair,) = pair_clips([clip("a", "she")], SETTINGS)
    assert (pair.kind, pair.target_clip, pair.reference_clip) == ("moment", "a", "a")
    # The sharpest look is the third, so the target lies behind it.
    assert (pair.target_start_frame, pair.target_end_frame) == (16, 36)
    assert pair.reference_frame == 10
    assert pair.reference_box_px == [110.0, 1.0, 160.0, 60.0]


def test_the_target_lies_where_the_better_look_is_left_over():
    (pair,) = pair_clips([clip("a", "she", sharpest=6)], SETTINGS)
    assert (pair.target_start_frame, pair.target_end_frame) == (0, 20)
    assert pair.reference_frame == 30


@pytest.mark.parametrize("frames", [20, 22])
def test_a_clip_that_is_all_target_has_no_other_moment(frames):
    assert pair_clips([clip("a", "she", frames)], SETTINGS) == []


def test_another_video_goes_before_another_clip_of_the_same():
    clips = [clip("a", "she", 20), clip("b", "she", 20), clip("c", "she", 20, video="w")]
    first = next(p for p in pair_clips(clips, SETTINGS) if p.target_clip == "a")
    assert (first.kind, first.reference_clip) == ("clip", "c")
    assert first.reference_frame == 10, "its sharpest look"


def test_who_stands_aside_elsewhere_is_a_reference_too():
    aside = track(1, "she", 100, 40, sharpest=1)
    clips = [clip("a", "she", 20), clip("b", "he", 40, more=[aside])]
    pair = next(p for p in pair_clips(clips, SETTINGS) if p.target_clip == "a")
    assert (pair.reference_clip, pair.reference_frame) == ("b", 5)


def test_nobody_is_paired_with_nobody():
    assert pair_clips([clip("a", ""), clip("b", "")], SETTINGS) == []


def test_order_does_not_matter_but_the_seed_does():
    clips = [clip(name, "she", 20) for name in "abcdefgh"]
    made = pair_clips(clips, SETTINGS)
    assert len(made) == 2 * len(clips)
    assert pair_clips(clips[::-1], SETTINGS) == made
    assert pair_clips(clips, replace(SETTINGS, seed=1)) != made
    assert pair_clips(clips, replace(SETTINGS, per_clip=0)) == []


def test_no_reference_is_ever_inside_its_target():
    rng = np.random.default_rng(0)
    for number in range(50):
        frames = int(rng.integers(20, 90))
        some = clip(str(number), "she", frames, sharpest=int(rng.integers(0, 20)))
        for pair in pair_clips([some], VideoPairSettings(window_frames=49)):
            start, end = pair.target_start_frame, pair.target_end_frame
            assert 0 <= start < end <= frames
            assert end - start == 49
            assert pair.reference_frame <= start - 3 or pair.reference_frame >= end + 2


def test_a_look_is_worth_most_where_it_is_sharp_and_frontal():
    seen = replace(
        track(0, "she", 0, 15), sharpness=[100.0, 400.0, 400.0], yaws_deg=[0.0, 60.0, 0.0]
    )
    assert worth(seen).round(3).tolist() == [10.0, 5.0, 20.0]


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(BadValue, match=r"pairs\.window_frames cannot be 0"):
        VideoPairSettings(window_frames=0)
    with pytest.raises(BadValue, match=r"pairs\.per_clip cannot be -1"):
        VideoPairSettings(per_clip=-1)
