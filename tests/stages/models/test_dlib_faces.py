import cv2
import dlib
import numpy as np
import pytest

from infra.errors import BadValue
from infra.weights import locate, sha256
from stages.models.dlib_faces import (
    IDENTITY,
    LANDMARKS,
    DlibDetector,
    DlibEmbedder,
    doubled_if_small,
    working_picture,
)
from stages.models.faces import Detector, Embedder, distance
from tests.stages.models.photos import astronaut, group, hanks


@pytest.fixture(scope="module")
def detector():
    return DlibDetector(detect_px=1280)


@pytest.fixture(scope="module")
def embedder():
    return DlibEmbedder()


@pytest.fixture(scope="module")
def chips(detector, embedder):
    """The faces of three photographs: one woman, one man, six others."""
    pictures = [astronaut(), hanks(), group()]
    found = detector.detect(pictures)
    return [embedder.align(p, faces.landmarks_px) for p, faces in zip(pictures, found, strict=True)]


def shapes_by_dlib(picture, rectangles):
    predictor = dlib.shape_predictor(str(locate(LANDMARKS)))
    return [predictor(picture, rectangle) for rectangle in rectangles]


def test_both_are_what_the_stages_ask_for(detector, embedder):
    assert isinstance(detector, Detector)
    assert isinstance(embedder, Embedder)


def test_every_face_of_the_photographs_is_found(detector):
    found = detector.detect([astronaut(), hanks(), group()])
    assert [len(faces.scores) for faces in found] == [1, 1, 6]


def test_a_picture_without_a_face_gives_empty_arrays(detector):
    flat = np.full((40, 90, 3), 128, dtype=np.uint8)
    (faces,) = detector.detect([flat])
    assert (faces.boxes_px.shape, faces.landmarks_px.shape) == ((0, 4), (0, 5, 2))


def test_no_picture_is_too_small_or_too_narrow(detector):
    pictures = [np.zeros((1, 1, 3), np.uint8), np.zeros((1, 3000, 3), np.uint8)]
    assert [len(faces.scores) for faces in detector.detect(pictures)] == [0, 0]


def test_faces_are_those_of_dlib_itself(detector):
    # At its own size the working picture is the grey picture, so nothing has to be mapped back.
    (faces,) = detector.detect([group()])
    grey = working_picture(group(), 1280)
    rectangles, scores, _ = dlib.get_frontal_face_detector().run(grey, 0, 0.0)
    shapes = shapes_by_dlib(group(), rectangles)
    by_dlib = {
        (r.left(), r.top(), r.right() + 1, r.bottom() + 1): (score, [(p.x, p.y) for p in s.parts()])
        for r, score, s in zip(rectangles, scores, shapes, strict=True)
    }
    rows = zip(faces.boxes_px, faces.scores, faces.landmarks_px, strict=True)
    for box, score, points in rows:
        expected_score, expected_points = by_dlib.pop(tuple(box.astype(int).tolist()))
        assert score == pytest.approx(expected_score)
        assert points.tolist() == [list(point) for point in expected_points]
    assert by_dlib == {}


def test_the_largest_face_comes_first(detector):
    (faces,) = detector.detect([group()])
    sides = faces.boxes_px[:, 2:] - faces.boxes_px[:, :2]
    areas = sides.prod(axis=1)
    assert (areas[:-1] >= areas[1:]).all()


def test_boxes_are_in_the_pixels_of_the_picture_whatever_the_working_size():
    large, small = (DlibDetector(px, min_score=0.5).detect([astronaut()])[0] for px in (900, 400))
    assert np.abs(large.boxes_px - small.boxes_px).max() < 20  # the face is about 90 px wide
    assert np.abs(large.landmarks_px - small.landmarks_px).max() < 8


def test_a_picture_is_at_most_doubled():
    assert working_picture(np.zeros((50, 100, 3), np.uint8), 640).shape == (100, 200)
    assert working_picture(np.zeros((500, 1000, 3), np.uint8), 640).shape == (320, 640)


def test_a_face_far_below_eighty_working_pixels_is_not_seen():
    # The faces of the group are 105 px wide at 1280, hence 33 px at 400.
    assert len(DlibDetector(400).detect([group()])[0].scores) == 0


def test_a_mirrored_view_is_read_like_a_copy_of_it(detector):
    view = astronaut()[:, ::-1]
    by_view, by_copy = detector.detect([view, view.copy()])
    assert (by_view.landmarks_px == by_copy.landmarks_px).all()


def test_a_higher_floor_finds_fewer_faces():
    sure = DlibDetector(1280, min_score=1.0).detect([group()])[0]
    assert 0 < len(sure.scores) < 6
    assert (sure.scores >= 1.0).all()


def test_a_working_size_below_the_window_is_refused():
    with pytest.raises(BadValue, match="detect_px cannot be 79: the detector's window"):
        DlibDetector(detect_px=79)


def test_chips_are_bit_for_bit_those_of_dlib(detector, embedder):
    (faces,) = detector.detect([group()])
    chips = embedder.align(group(), faces.landmarks_px)
    edges = faces.boxes_px.astype(int).tolist()
    rectangles = [
        dlib.rectangle(left, top, right - 1, bottom - 1) for left, top, right, bottom in edges
    ]
    for chip, shape in zip(chips, shapes_by_dlib(group(), rectangles), strict=True):
        assert (chip == dlib.get_face_chip(group(), shape, size=150, padding=0.25)).all()


def test_chips_survive_landmarks_scaled_there_and_back(detector, embedder):
    (faces,) = detector.detect([group()])
    scale = np.array([4032 / 1280, 2791 / 886], dtype=np.float32)
    there_and_back = (faces.landmarks_px * scale).astype(np.float32) / scale
    direct = embedder.align(group(), faces.landmarks_px)
    assert (embedder.align(group(), there_and_back) == direct).all()


def test_the_network_equals_dlibs_own(embedder, chips):
    by_dlib = dlib.face_recognition_model_v1(str(locate(IDENTITY)))
    every = np.concatenate(chips)
    expected = np.array([by_dlib.compute_face_descriptor(chip) for chip in every])
    assert np.abs(embedder.embed(every) - expected).max() < 1e-5


def test_a_chip_alone_has_the_vector_it_has_among_others(embedder, chips):
    every = np.concatenate(chips)
    together = embedder.embed(np.tile(every, (9, 1, 1, 1)))  # more than one slice
    alone = embedder.embed(every[:1])
    assert together.shape == (72, 128)
    assert np.abs(together[64] - alone[0]).max() < 1e-5


def test_one_person_is_near_and_others_are_far(detector, embedder, chips):
    darker = (astronaut()[:, ::-1] * 0.7).astype(np.uint8)
    (faces,) = detector.detect([darker])
    again = embedder.embed(embedder.align(darker, faces.landmarks_px))
    woman, man, others = (embedder.embed(c) for c in chips)
    near = distance(woman, again, embedder.metric)
    strangers = np.concatenate([man, others])
    far = distance(np.repeat(woman, len(strangers), axis=0), strangers, embedder.metric)
    assert near.max() < embedder.same_person_below < far.min()


def test_no_chips_give_no_vectors(embedder):
    none = embedder.align(astronaut(), np.empty((0, 5, 2), np.float32))
    assert none.shape == (0, 150, 150, 3)
    assert embedder.embed(none).shape == (0, 128)


def test_an_unknown_device_is_refused():
    with pytest.raises(BadValue, match="device cannot be 'tpu': give 'cpu' or 'cuda'"):
        DlibEmbedder("tpu")


def test_the_cards_name_the_files_and_never_the_68_points(detector, embedder):
    assert detector.card.sha256 == sha256(locate(LANDMARKS))
    assert embedder.card.sha256 == sha256(locate(IDENTITY))
    assert "_5_" in detector.card.source


def test_a_small_picture_is_read_at_twice_its_size(embedder):
    small = cv2.resize(astronaut(), (256, 256), interpolation=cv2.INTER_AREA)
    doubled, times = doubled_if_small(small)
    assert (times, doubled.shape) == (2, (512, 512, 3))
    found = DlibDetector(512).detect([small])[0].landmarks_px
    assert (found * 2 == np.rint(found * 2)).all()
    assert (found != np.rint(found)).any(), "half pixels are told apart"
    assert (embedder.align(small, found) == embedder.align(doubled, found * 2)).all()


def test_a_large_picture_is_read_as_it_is():
    picture, times = doubled_if_small(astronaut())
    assert times == 1
    assert picture.shape == (512, 512, 3)
