import numpy as np
import pytest

from training.evaluation.metrics import cosines
from training.evaluation.scorers import load_scorer
from training.video.metrics import (
    likeness,
    neighbours_alike,
    published_clip_score,
    spread,
    spread_for_clip,
)

RNG = np.random.default_rng(0)


def test_faces_are_looked_for_in_16_frames_from_the_first_to_the_last():
    assert spread(49).tolist() == [0, 3, 6, 9, 12, 16, 19, 22, 25, 28, 32, 35, 38, 41, 44, 48]
    assert spread(16).tolist() == list(range(16))
    assert spread(3, 6).tolist() == [0, 0, 0, 1, 1, 2]


def test_clip_is_shown_other_frames_and_never_the_last():
    assert spread_for_clip(49).tolist() == [3 * i + i // 16 for i in range(16)]
    assert spread_for_clip(49).max() < 48


def test_likeness_counts_faceless_frames_as_0_and_published_leaves_them_out():
    like = likeness(np.array([0.8, np.nan, 0.4, -0.2]), np.arange(4))
    assert like.mean == pytest.approx((0.8 + 0 + 0.4 + 0) / 4)
    assert like.published == pytest.approx((0.8 + 0.4 + 0) / 3)
    assert like.deviation == pytest.approx(np.std([0.8, 0, 0.4, 0]))
    assert like.p10 == pytest.approx(0)
    assert like.face_share == 0.75


def test_a_video_without_a_face_is_0_also_as_published():
    like = likeness(np.full(5, np.nan), np.arange(5))
    assert (like.mean, like.published, like.face_share, like.deviation) == (0, 0, 0, 0)


def test_published_counts_a_frame_of_a_short_video_as_often_as_it_is_shown():
    like = likeness(np.array([1.0, 0.0]), np.array([0, 0, 0, 1]))
    assert (like.published, like.mean) == (0.75, 0.5)


def test_a_video_that_rests_is_consistent_and_a_single_frame_says_nothing():
    vector = RNG.normal(size=(1, 8))
    assert neighbours_alike(np.repeat(vector, 4, axis=0)) == pytest.approx(1)
    assert neighbours_alike(np.array([[1.0, 0], [0, 1], [1, 0]])) == pytest.approx(0)
    assert np.isnan(neighbours_alike(vector))


def test_the_published_clip_score_sees_blue_where_there_is_red():
    clip = load_scorer("clip", "random:tiny-clip")
    frames = np.zeros((20, 40, 40, 3), dtype=np.uint8)
    frames[..., 0] = np.arange(20)[:, None, None] * 10  # ever more red
    prompt, _ = clip.prompts(["a red square"])
    temperature = float(np.exp(clip.network.logit_scale.item()))

    def score(some):
        alike = cosines(clip.pictures(some), np.repeat(prompt, len(some), axis=0))
        return temperature * float(alike.mean())

    chosen = frames[[0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 18]]
    published = published_clip_score(frames, prompt, clip)
    assert published == pytest.approx(score(np.ascontiguousarray(chosen[..., ::-1])), rel=1e-5)
    assert abs(published - score(chosen)) > 1e-3
