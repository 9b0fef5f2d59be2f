"""Drawn pictures are measured as a corpus' photographs are, aligned ones where they stand."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipelines.synthesis.faces import Looker, identity_of_person, png, signer
from serving.provenance.settings import ProvenanceSettings
from stages.models.dlib_faces import DlibDetector, DlibEmbedder
from stages.pose import head_pose
from tests.training.methods.adapters import FEATURES
from training.crops import aligned, aligned_landmarks_px

BLANK = np.full((64, 64, 3), 255, np.uint8)


@pytest.fixture(scope="module")
def her(astronaut):
    """A photograph of one person, her landmarks, and her aligned face at 64 px."""
    picture = np.asarray(Image.open(astronaut).convert("RGB"))[:340, 60:400]
    (found,) = DlibDetector(640).detect([picture])
    chips = DlibEmbedder("cpu").align(picture, found.landmarks_px[:1])
    return picture, found.landmarks_px[:1], aligned(chips, 64)[0]


def look(pictures, *, is_aligned):
    features = replace(FEATURES, image_px=64)
    looker = Looker(features, aligned=is_aligned, pack="", device="cpu")
    return looker.look(pictures, [png(picture, "test") for picture in pictures])


def test_an_aligned_face_is_embedded_as_it_is_and_posed_as_it_is_seen(her):
    picture, points, small = her
    whole, drawn, nothing = (
        look([picture], is_aligned=False)[0],
        *look([small, BLANK], is_aligned=True),
    )
    assert (drawn["num_faces"], nothing["num_faces"]) == (1, 0)
    assert np.allclose(
        np.reshape(drawn["face_landmarks_px"][0], (5, 2)), aligned_landmarks_px(64), atol=1e-4
    )
    far = np.linalg.norm(np.subtract(drawn["face_embeddings"][0], whole["face_embeddings"][0]))
    assert far < 0.35
    template = head_pose(aligned_landmarks_px(64)[None], "dlib5")[0, 0]
    true = head_pose(points, "dlib5")[0, 0]
    assert drawn["face_yaws_deg"][0] == pytest.approx(true, abs=10)
    assert drawn["face_yaws_deg"][0] != pytest.approx(template, abs=1e-3)


def test_of_a_picture_without_a_face_nothing_is_said(her):
    blank, seen = look([np.full((340, 340, 3), 255, np.uint8), her[0]], is_aligned=False)
    for name in ("face_embeddings", "face_yaws_deg", "face_exposures", "face_boxes_px"):
        assert len(blank[name]) == 0, name
        assert len(seen[name]) == 1, name
    assert len(look([BLANK], is_aligned=True)[0]["face_embeddings"]) == 0
    assert blank["embedder"] == seen["embedder"]
    assert len(blank["sha256"]) == 64


def test_nobody_signs_where_that_is_asked_and_it_is_said():
    settings = ProvenanceSettings(watermark="none", credentials=False)
    assert signer(settings, "model") == (None, "nobody, as asked")


def test_identities_of_two_corpora_never_meet():
    numbers = range(100)
    a, b = ({identity_of_person(which, n) for n in numbers} for which in ("a", "b"))
    assert len(a | b) == 200
    assert all(len(name) == 32 for name in a)
