"""ArcFace's crop as a part of a loss; dlib's is in ``tests/training/test_identity.py``."""

import cv2
import numpy as np
import pytest
import torch

from stages.landmarks import ARCFACE_TEMPLATE_PX, similarity
from tests.stages.models.photos import astronaut, group
from training.nets.face_chips import arcface_chips


def faces(picture, rng, count=12):
    """Return ill-fitting landmarks, turned and of many sizes, some beyond the picture's edge."""
    flat = (ARCFACE_TEMPLATE_PX - 56) * rng.uniform(0.4, 3, (count, 1, 1))
    angles = rng.uniform(-0.8, 0.8, (count, 1, 1))
    turned = flat * np.cos(angles) + flat[..., ::-1] * np.sin(angles) * [-1, 1]
    middles = rng.uniform(0, 1, (count, 1, 2)) * picture.shape[1::-1]
    return (turned + middles + rng.normal(0, 4, (count, 5, 2))).astype(np.float32)


@pytest.mark.parametrize("photograph", [astronaut, group])
def test_chips_are_those_of_insightface_within_rounding(photograph):
    picture = photograph()
    points = faces(picture, np.random.default_rng(0))
    rgb = torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255
    found = arcface_chips(rgb.expand(len(points), -1, -1, -1), torch.from_numpy(points))
    found = 255 * found.permute(0, 2, 3, 1).numpy()
    matrices = similarity(points, ARCFACE_TEMPLATE_PX)
    for ours, matrix in zip(found, matrices, strict=True):
        theirs = cv2.warpAffine(picture, matrix, (112, 112)).astype(np.float32)
        # OpenCV counts 1/32 of a pixel: an edge differs by some levels.
        assert np.abs(ours - theirs).mean() < 1.0
        assert np.abs(ours - theirs).max() < 24


def test_landmarks_in_one_point_give_a_finite_chip():
    chips = arcface_chips(torch.rand(1, 3, 64, 64), torch.full((1, 5, 2), 30.0))
    assert torch.isfinite(chips).all()


def test_the_gradient_of_a_chip_is_that_of_finite_differences():
    rng = torch.Generator().manual_seed(0)
    picture = torch.rand(2, 3, 12, 12, generator=rng, dtype=torch.float64).requires_grad_()
    points = torch.from_numpy(ARCFACE_TEMPLATE_PX / 10).double().expand(2, -1, -1)
    assert torch.autograd.gradcheck(lambda p: arcface_chips(p, points), (picture,), fast_mode=True)
