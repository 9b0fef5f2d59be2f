from functools import lru_cache

import cv2
import numpy as np
import pyarrow as pa
import pytest

from stages.columns import COLUMNS
from stages.faces import AlignFaces, DetectFaces, EmbedFaces
from stages.models.dlib_faces import DlibDetector, DlibEmbedder
from stages.models.faces import Detections, ModelCard
from tests.stages.models.photos import astronaut, group

BLANK = np.full((90, 160, 3), 128, dtype=np.uint8)


@lru_cache
def embedder():
    return DlibEmbedder()


@lru_cache
def detector():
    return DlibDetector(1280, min_score=0.2)  # above the astronaut's badge, which scores 0.02


class Ruler:
    """A detector of one box, for arithmetic that a photograph cannot show exactly."""

    card = ModelCard("ruler", "0123456789abcdef", "CC0-1.0", "this file")
    scheme = "dlib5"

    def __init__(self, *box_px):
        self.box_px = np.array([box_px], dtype=np.float32)

    def detect(self, pictures):
        score, points = np.ones(1, np.float32), np.ones((1, 5, 2), np.float32)
        return [Detections.of(self.box_px, score, points) for _ in pictures]


def batch(*pictures, times=1):
    """Rows whose pixels were reduced ``times`` fold from the picture."""
    return {
        "pixels": list(pictures),
        "width_px": [times * p.shape[1] for p in pictures],
        "height_px": [times * p.shape[0] for p in pictures],
    }


@pytest.fixture(scope="module")
def found():
    return DetectFaces(detector)(batch(astronaut(), BLANK, group()))


def test_every_row_has_its_faces_and_the_detectors_name(found):
    assert tuple(found) == DetectFaces.writes
    assert found["num_faces"] == [1, 0, 6]
    assert found["detector"] == [detector().card.tag] * 3


def test_lists_have_one_entry_per_face(found):
    for name in set(DetectFaces.writes) - {"num_faces", "detector"}:
        assert [len(row) for row in found[name]] == [1, 0, 6]
    assert {len(points) for row in found["face_landmarks_px"] for points in row} == {10}


def test_the_columns_fit_their_arrow_types(found):
    for name, values in found.items():
        column = pa.array(values, type=COLUMNS[name].type)
        assert len(column) == 3


def test_the_largest_face_comes_first(found):
    shares = found["face_area_shares"][2]
    assert shares == sorted(shares, reverse=True)


def test_what_is_written_is_in_the_pixels_of_the_picture():
    at_hand = DetectFaces(detector)(batch(astronaut()))
    reduced = DetectFaces(detector)(batch(astronaut(), times=3))
    for name in ("face_boxes_px", "face_landmarks_px", "face_sizes_px"):
        np.testing.assert_allclose(reduced[name][0], np.array(at_hand[name][0]) * 3, rtol=1e-6)
    assert reduced["face_area_shares"][0] == pytest.approx(at_hand["face_area_shares"][0])


def test_sides_may_be_reduced_by_unequal_amounts():
    rows = {"pixels": [BLANK], "width_px": [320], "height_px": [270]}
    out = DetectFaces(lambda: Ruler(10, 20, 30, 50))(rows)
    assert out["face_boxes_px"] == [[[20, 60, 60, 150]]]
    assert out["face_sizes_px"] == [[40]]
    assert out["face_landmarks_px"] == [[[2, 3] * 5]]


def test_a_share_counts_only_what_lies_inside_the_picture():
    out = DetectFaces(lambda: Ruler(-80, -10, 80, 45))(batch(BLANK))
    assert out["face_area_shares"] == [[pytest.approx(0.25)]]
    assert out["face_sizes_px"] == [[55]]


def test_chips_are_the_same_whatever_size_was_written():
    direct = embedder().align(astronaut(), detector().detect([astronaut()])[0].landmarks_px)
    for times in (1, 3, 7):
        rows = batch(astronaut(), times=times)
        rows |= DetectFaces(detector)(rows)
        (chips,) = AlignFaces(embedder)(rows)["face_chips"]
        assert (chips == direct).all()


def test_faces_travel_from_pixels_to_vectors(found):
    rows = batch(astronaut(), BLANK, group()) | found
    rows |= AlignFaces(embedder)(rows)
    assert [chips.shape for chips in rows["face_chips"]] == [
        (count, 150, 150, 3) for count in (1, 0, 6)
    ]
    out = EmbedFaces(embedder)(rows)
    assert tuple(out) == EmbedFaces.writes
    assert [np.shape(vectors) for vectors in out["face_embeddings"]] == [
        (1, 128),
        (0, 128),
        (6, 128),
    ]
    assert out["embedder"] == [embedder().card.tag] * 3
    alone = embedder().embed(rows["face_chips"][2])
    np.testing.assert_allclose(out["face_embeddings"][2], alone, atol=1e-5)


def test_a_batch_without_any_face_has_empty_vectors():
    rows = batch(BLANK, BLANK)
    for make in (lambda: DetectFaces(detector), lambda: AlignFaces(embedder)):
        rows |= make()(rows)
    out = EmbedFaces(embedder)(rows)
    assert [vectors.shape for vectors in out["face_embeddings"]] == [(0, 128), (0, 128)]


def test_a_photograph_read_smaller_gives_the_same_person():
    half = cv2.resize(astronaut(), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    vectors = []
    for each in (batch(astronaut()), batch(half, times=2)):
        each |= DetectFaces(detector)(each)
        each |= AlignFaces(embedder)(each)
        vectors.append(EmbedFaces(embedder)(each)["face_embeddings"][0][0])
    assert np.linalg.norm(vectors[0] - vectors[1]) < embedder().same_person_below
