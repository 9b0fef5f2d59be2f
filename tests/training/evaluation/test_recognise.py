"""Recognising real people, so that what is said of drawn ones can be believed."""

from dataclasses import replace

import numpy as np
import pytest

from infra.errors import BadValue
from stages.models.backend import load_detector, load_embedder
from stages.models.dlib_faces import embedder_card
from stages.models.faces import distance
from tests.stages.models.photos import group
from training.crops import aligned
from training.evaluation.recognise import Recogniser
from training.features import Features

BLANK = np.full((64, 64, 3), 128, dtype=np.uint8)


@pytest.fixture(scope="module")
def six():
    """Six people: a photograph of each, cut from the group; a face of 64 px; the vector."""
    (faces,) = load_detector("dlib", "", 1280, 0.0, "cpu").detect([group()])
    embedder = load_embedder("dlib", "", "cpu")
    chips = embedder.align(group(), faces.landmarks_px)
    photos = []
    for left, top, right, bottom in faces.boxes_px.astype(int):
        middle_x, middle_y = (left + right) // 2, (top + bottom) // 2
        photos.append(group()[middle_y - 100 : middle_y + 100, middle_x - 80 : middle_x + 80])
    return np.stack(photos), np.stack(aligned(chips, 64)), embedder.embed(chips)


@pytest.fixture(scope="module")
def features(six):
    mean = tuple(six[2].mean(0).tolist())
    return Features(
        corpus="x", image_px=64, codec="", latent_shape=(1, 2, 2), text_shape=(0, 0),
        identity_dim=128, embedder=embedder_card().tag, backend="dlib",
        identity_mean=mean, identity_std=(1.0,) * 128,
    )  # fmt: skip


def test_people_in_whole_photographs_are_found_and_told_apart(six, features):
    photos, _, vectors = six
    seen = Recogniser(features, aligned=False).look(photos)
    assert seen.found.all()
    assert distance(seen.vectors, vectors, "l2").max() < 0.3
    assert distance(seen.vectors, np.roll(vectors, 1, 0), "l2").min() > 0.6


def test_aligned_faces_of_64_px_are_told_apart(six, features):
    _, small, vectors = six
    seen = Recogniser(features, aligned=True).look(small)
    assert distance(seen.vectors, vectors, "l2").max() < 0.4
    assert distance(seen.vectors, np.roll(vectors, 1, 0), "l2").min() > 0.6


def test_aligned_faces_are_embedded_face_or_no_face_and_the_detector_says_which(six, features):
    seen = Recogniser(features, aligned=True).look(np.stack([six[1][0], BLANK]))
    assert np.isfinite(seen.vectors).all()
    assert seen.found.tolist() == [True, False]


def test_who_was_not_found_in_a_whole_picture_has_no_vector(six, features):
    blank = np.full_like(six[0][0], 128)
    seen = Recogniser(features, aligned=False).look(np.stack([blank, six[0][0]]))
    assert np.isnan(seen.vectors).all(axis=1).tolist() == [True, False]


def test_two_people_are_unlike_once_the_corpus_mean_is_off(six, features):
    recogniser = Recogniser(features, aligned=True)
    vectors = six[2].astype(np.float64)
    others = np.roll(vectors, 1, 0)
    raw = (vectors * others).sum(1) / (np.linalg.norm(vectors, axis=1) ** 2)
    assert raw.mean() > 0.7
    assert recogniser.similarity(vectors, others).mean() < 0.2
    assert recogniser.similarity(vectors, vectors) == pytest.approx(np.ones(6))
    assert "less the corpus' mean" in recogniser.similarity_of


def test_another_encoder_than_the_features_is_refused(features):
    other = replace(features, embedder="arcface@0123456789ab")
    with pytest.raises(BadValue, match="made with the encoder arcface@0123456789ab"):
        Recogniser(other, aligned=True)
