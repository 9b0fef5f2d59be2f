import numpy as np
import pytest
from PIL import Image

from stages.models.dlib_faces import DlibDetector, DlibEmbedder
from training.crops import (
    aligned,
    aligned_landmarks_px,
    aligned_mask,
    arcface_crop,
    around,
    chips_of_aligned,
    covering,
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
    window = covering((912, 512), found.boxes_px[0], (256, 256))
    cut = window.cut(wide, 256, 256)
    assert cut.shape == (256, 256, 3)
    points = (found.landmarks_px[0] - [window.left, window.top]) * window.scale(256, 256)
    assert bool(((points > 0) & (points < 256)).all())
    again = DlibDetector(512, min_score=0.2).detect([cut])[0]
    assert np.abs(again.landmarks_px[0] - points).max() < 6


@pytest.mark.parametrize("picture_px", [(900, 600), (600, 900), (512, 512), (1333, 501)])
@pytest.mark.parametrize("shape_px", [(64, 64), (72, 56), (48, 80)])
def test_a_window_is_as_large_as_its_shape_allows_and_keeps_the_face_inside(picture_px, shape_px):
    for left, top in [(0, 0), (0.5, 0.4), (1, 1)]:
        x, y = left * (picture_px[0] - 150), top * (picture_px[1] - 180)
        box = np.array([x, y, x + 150, y + 180], np.float32)
        window = covering(picture_px, box, shape_px)
        right, bottom = window.left + window.width, window.top + window.height
        assert window.left >= 0
        assert window.top >= 0
        assert (right, bottom) <= picture_px
        assert window.width == picture_px[0] or window.height == picture_px[1]
        across, down = window.scale(*shape_px)
        assert abs(across / down - 1) < 0.01, "nothing is squeezed"
        assert window.left <= x
        assert window.top <= y
        assert right >= x + 149
        assert bottom >= y + 179


def test_a_portrait_is_twice_the_face_and_stays_in_the_picture():
    box = np.array([300, 200, 400, 320], np.float32)
    window = around((1000, 800), box)
    assert (window.width, window.height) == (240, 240)
    assert (window.left + 120, window.top + 120) == (350, 260)
    corner = around((1000, 800), np.array([0, 0, 100, 120], np.float32))
    assert (corner.left, corner.top, corner.width) == (0, 0, 240)
    whole = around((200, 300), np.array([0, 0, 190, 190], np.float32))
    assert (whole.width, whole.height) == (200, 200)


def test_the_crop_for_the_image_encoder_is_insightfaces(face):
    from insightface.utils import face_align

    picture, found, _ = face
    points = np.array([[180, 120], [250, 118], [216, 165], [190, 195], [245, 193]], np.float32)
    theirs = face_align.norm_crop(picture, points, image_size=224)
    ours = arcface_crop(picture, points, "arcface5")
    assert np.abs(ours.astype(int) - theirs).mean() < 1
    from_dlib = arcface_crop(picture, found.landmarks_px[0], "dlib5")
    seen = DlibDetector(448, min_score=0.2).detect([from_dlib])[0]
    assert len(seen.scores) == 1
    eyes = seen.landmarks_px[0, :4].mean(axis=0) / 2
    assert np.abs(eyes - [56, 51.6]).max() < 4, "the eyes are where ArcFace wants them"
