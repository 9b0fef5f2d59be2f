import numpy as np
import pytest
from PIL import Image

from stages.models.dlib_faces import DlibDetector, DlibEmbedder
from training.crops import (
    aligned,
    aligned_landmarks_px,
    aligned_mask,
    chips_of_aligned,
    square,
)


@pytest.fixture(scope="module")
def face(astronaut):
    """A picture, the landmarks of its face, and dlib's chip of it."""
    picture = np.asarray(Image.open(astronaut).convert("RGB"))
    found = DlibDetector(1024, min_score=0.2).detect([picture])[0]
    return picture, found, DlibEmbedder().align(picture, found.landmarks_px[:1])


def test_an_aligned_picture_keeps_its_identity(face):
    _, _, chip = face
    (small,) = aligned(chip, 64)
    assert small.shape == (64, 64, 3)
    embedder = DlibEmbedder()
    away = embedder.embed(chips_of_aligned(np.stack([small]))) - embedder.embed(chip)
    assert np.linalg.norm(away) < 0.3


def test_the_landmarks_of_aligned_pictures_are_where_the_detector_sees_them(face):
    _, _, chip = face
    found = DlibDetector(300).detect([chip[0]])[0]
    in_chip = found.landmarks_px[0]
    ours = aligned_landmarks_px(128) + 11
    assert np.abs(in_chip - ours).max() < 8


def test_the_mask_covers_the_middle_and_not_the_corners():
    mask = aligned_mask(16, 16)
    assert mask[8, 8] == 1
    assert mask[0, 0] == mask[15, 15] == 0
    assert 0.4 < mask.mean() < 0.8


def test_a_square_holds_the_face_and_says_where_it_was_cut(face):
    picture, found, _ = face
    wide = np.concatenate([picture, np.zeros((512, 400, 3), np.uint8)], axis=1)
    cut, scale, left, top = square(wide, found.boxes_px[0], 256)
    assert cut.shape == (256, 256, 3)
    points = (found.landmarks_px[0] - [left, top]) * scale
    assert bool(((points > 0) & (points < 256)).all())
    again = DlibDetector(512, min_score=0.2).detect([cut])[0]
    assert np.abs(again.landmarks_px[0] - points).max() < 6
