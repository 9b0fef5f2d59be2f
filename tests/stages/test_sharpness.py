import cv2
import numpy as np
import pytest

from stages.sharpness import ScoreSharpness, laplacian_variance
from tests.stages.models.photos import astronaut

FACE = astronaut()[60:220, 140:300]


def chips(face, side):
    return cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)[None]


def test_a_flat_chip_scores_zero():
    assert laplacian_variance(np.full((1, 150, 150, 3), 128, np.uint8)) == pytest.approx(0)


def test_every_step_of_blur_lowers_the_score():
    blurred = [cv2.GaussianBlur(chips(FACE, 150)[0], (0, 0), sigma) for sigma in (0.5, 1, 2, 4)]
    scores = laplacian_variance(np.stack([chips(FACE, 150)[0], *blurred]))
    assert (np.diff(scores) < 0).all()


def test_a_small_face_enlarged_is_soft():
    small = cv2.resize(chips(FACE, 30)[0], (150, 150))
    assert laplacian_variance(small[None]) < laplacian_variance(chips(FACE, 150)) / 5


def test_chips_of_both_backends_score_alike():
    dlib_like, arcface_like = (laplacian_variance(chips(FACE, side))[0] for side in (150, 112))
    assert dlib_like == pytest.approx(arcface_like, rel=0.35)


def test_the_stage_scores_every_row_even_one_without_faces():
    none = np.empty((0, 150, 150, 3), np.uint8)
    two = np.concatenate([chips(FACE, 150), np.zeros((1, 150, 150, 3), np.uint8)])
    out = ScoreSharpness()({"face_chips": [none, two]})
    assert tuple(out) == ScoreSharpness.writes
    first, (face, black) = out["face_sharpness"]
    assert first == []
    assert face > black == 0
