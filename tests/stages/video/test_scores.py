import cv2
import numpy as np
import pytest

from stages.video.scores import ClipScores
from tests.stages.video import made

NOBODY = np.zeros((0, 4), np.float32)
FPS = 25
DIAGONAL = np.hypot(256, 192)


def score(frames, boxes=NOBODY, reader=None, size=(256, 192)):
    scores = ClipScores(*size, reader)
    for i, frame in enumerate(frames):
        scores.add(frame, i / FPS)
        scores.look(frame, boxes)
    return scores.finish()


def pan(step_px, count=6):
    """Look along a photograph, a number of pixels further in every frame."""
    wide = next(made.grow(made.portrait("astronaut"), 1, (400, 192)))
    return [wide[:, round(step_px * i) :][:, :256].copy() for i in range(count)]


def test_a_pan_is_motion_of_the_camera():
    scores = score(pan(3))
    expected = 3 * FPS / DIAGONAL
    assert scores.camera_motion == pytest.approx(expected, rel=0.1)
    assert scores.motion == pytest.approx(expected, rel=0.25)
    assert scores.person_motion is None


def test_somebody_who_moves_before_a_still_camera_is_motion_of_a_person():
    rng = np.random.default_rng(0)
    back = made.portrait("astronaut")[:192, :256]
    person = rng.integers(0, 255, (17, 10, 3), np.uint8).repeat(6, axis=0).repeat(6, axis=1)
    frames = []
    for i in range(6):
        frame = back.copy()
        frame[80:182, 90 + 3 * i : 150 + 3 * i] = person
        frames.append(frame)
    face = np.float32([[110 / 256, 90 / 192, 135 / 256, 112 / 192]])
    scores = score(frames, face)
    assert scores.camera_motion < 0.02
    assert scores.person_motion == pytest.approx(3 * FPS / DIAGONAL, rel=0.4)


def test_somebody_who_stands_still_in_a_pan_does_not_move():
    face = np.float32([[0.4, 0.3, 0.5, 0.5]])
    assert score(pan(3), face).person_motion < 0.2 * score(pan(3)).camera_motion


def test_frames_that_repeat_are_frozen_and_do_not_move():
    still = pan(0, 10)
    scores = score(still)
    assert (scores.frozen_share, scores.black_share) == (1, 0)
    assert scores.motion == pytest.approx(0, abs=1e-3)
    assert score(pan(3)).frozen_share == 0
    assert score(still[:3] + pan(3)[1:]).frozen_share == pytest.approx(2 / 7)


def test_black_frames_are_counted():
    black = np.full((192, 256, 3), 16, np.uint8)
    scores = score([black] * 3 + pan(3)[:1])
    assert scores.black_share == 0.75
    assert score([black]).letterbox_px == (0, 0, 0, 0)


def test_a_blurred_clip_is_soft():
    sharp = pan(3)
    soft = [cv2.GaussianBlur(frame, (0, 0), 3) for frame in sharp]
    assert score(soft).sharpness_p10 < 0.1 * score(sharp).sharpness_p10


def test_bars_are_measured_in_pixels_of_the_video():
    boxed = pan(3)
    for frame in boxed:
        frame[:20] = frame[-12:] = 4
        frame[:, :7] = 0
    assert score(boxed).letterbox_px == (7, 20, 0, 12)
    assert score(boxed, size=(512, 384)).letterbox_px == (14, 40, 0, 24)
    assert score(pan(3)).letterbox_px == (0, 0, 0, 0)


def test_text_is_asked_of_a_reader_only():
    class Subtitle:
        def find(self, picture):
            high, wide = picture.shape[:2]
            return np.float32([[0, high / 2, wide / 2, high], [0, high / 2, wide / 2, high]])

    assert score(pan(3)).text_share is None
    assert score(pan(3), reader=Subtitle()).text_share == pytest.approx(0.25)


def test_one_frame_does_not_move():
    scores = score(pan(3)[:1])
    assert (scores.motion, scores.camera_motion, scores.frozen_share) == (0, 0, 0)
