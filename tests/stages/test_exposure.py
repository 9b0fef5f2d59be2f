import numpy as np
import pytest

from stages.exposure import ScoreExposure, mean_luminance
from tests.stages.models.photos import astronaut

FACE = astronaut()[60:210, 140:290][None]


def flat(*rgb):
    return np.full((1, 112, 112, 3), rgb, dtype=np.uint8)


@pytest.mark.parametrize(("grey", "light"), [(0, 0.0), (51, 0.2), (255, 1.0)])
def test_grey_has_its_own_value(grey, light):
    assert mean_luminance(flat(grey, grey, grey)) == pytest.approx(light, abs=1e-5)


def test_green_is_lighter_than_red_and_red_than_blue():
    light = [mean_luminance(flat(*rgb))[0] for rgb in np.eye(3, dtype=int) * 255]
    assert light == pytest.approx([0.2126, 0.7152, 0.0722], abs=1e-5)


def test_only_the_middle_counts():
    bright_edge = np.full((1, 112, 112, 3), 255, dtype=np.uint8)
    bright_edge[:, 28:84, 28:84] = 51
    assert mean_luminance(bright_edge) == pytest.approx(0.2, abs=1e-5)


def test_halving_the_values_halves_the_light():
    assert mean_luminance(FACE // 2) == pytest.approx(mean_luminance(FACE) / 2, abs=0.01)


def test_the_stage_scores_every_row_even_one_without_faces():
    none = np.empty((0, 112, 112, 3), np.uint8)
    out = ScoreExposure()({"face_chips": [flat(0, 0, 0), none]})
    assert tuple(out) == ScoreExposure.writes
    assert out["face_exposures"] == [[0.0], []]
