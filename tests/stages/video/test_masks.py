import numpy as np
import pytest

from infra.errors import BadValue
from stages.landmarks import mean_face
from stages.models.dlib_faces import DlibDetector
from stages.video.masks import EllipseMasker, Masker, face_ellipse
from tests.stages.models.photos import astronaut

SCHEMES = ["dlib5", "arcface5"]
SHAPE = (200, 300)


def face(scheme, x, y, eyes_px=20.0, tilt_deg=0.0):
    """A frontal face whose middle between the eyes is at x, y."""
    tilt = np.radians(tilt_deg)
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    return (mean_face(scheme)[:, :2] @ turn.T * eyes_px + [x, y]).astype(np.float32)


def middle(mask):
    return np.argwhere(mask).mean(axis=0)[::-1]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_ellipse_holds_the_landmarks_and_lies_below_the_eyes(scheme):
    points = face(scheme, 150, 90)
    mask = face_ellipse(points, scheme, SHAPE)
    assert all(mask[round(y), round(x)] for x, y in points.tolist())
    assert middle(mask) == pytest.approx([150, 99], abs=1.5)
    rows, columns = mask.any(axis=1).sum(), mask.any(axis=0).sum()
    assert (columns, rows) == pytest.approx((46, 62), abs=3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_tilted_face_has_a_tilted_ellipse(scheme):
    mask = face_ellipse(face(scheme, 150, 90, tilt_deg=90), scheme, SHAPE)
    assert middle(mask) == pytest.approx([141, 90], abs=1.5)
    assert mask.any(axis=0).sum() > mask.any(axis=1).sum()


def test_a_face_at_the_edge_is_cut_off():
    mask = face_ellipse(face("dlib5", 0, 90), "dlib5", SHAPE)
    assert mask[:, 0].any()
    assert not mask[:, 40:].any()


def test_a_photographs_face_is_under_its_ellipse():
    (found,) = DlibDetector(640).detect([astronaut()])
    mask = face_ellipse(found.landmarks_px[0], "dlib5", astronaut().shape[:2])
    left, top, right, bottom = np.rint(found.boxes_px[0]).astype(int)
    inside = mask[top:bottom, left:right].sum()
    assert inside / mask.sum() > 0.7
    assert inside / ((right - left) * (bottom - top)) > 0.6


def test_the_mask_moves_with_the_face_between_looks():
    frames = [np.zeros((*SHAPE, 3), np.uint8)] * 12
    points = np.stack([face("dlib5", x, 90) for x in (100, 150)])
    masker = EllipseMasker("dlib5")
    assert isinstance(masker, Masker)
    masks = masker.masks(frames, np.array([0, 10]), np.zeros((2, 4), np.float32), points)
    assert masks.shape == (12, *SHAPE)
    assert [middle(mask)[0] for mask in masks[:11]] == pytest.approx(range(100, 151, 5), abs=1.5)
    assert not masks[11].any()


def test_no_mask_is_made_up_for_a_long_gap():
    frames = [np.zeros((*SHAPE, 3), np.uint8)] * 31
    points = np.stack([face("dlib5", 100, 90)] * 3)
    looks, boxes = np.array([5, 10, 30]), np.zeros((3, 4), np.float32)
    masks = EllipseMasker("dlib5", max_gap=10).masks(frames, looks, boxes, points)
    assert np.flatnonzero(masks.any(axis=(1, 2))).tolist() == [*range(5, 11), 30]


def test_a_track_without_looks_has_no_masks():
    frames = [np.zeros((*SHAPE, 3), np.uint8)] * 3
    none = np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32)
    assert not EllipseMasker("dlib5").masks(frames, np.zeros(0, int), *none).any()


def test_a_gap_of_nothing_is_refused():
    with pytest.raises(BadValue, match="max_gap cannot be 0"):
        EllipseMasker("dlib5", 0)
