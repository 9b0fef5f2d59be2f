"""Writing is found where it was drawn, and nowhere else."""

import importlib.util

import cv2
import numpy as np
import pytest

from infra.errors import BadWeights
from stages.video import text_reader
from stages.video.scores import ClipScores, TextReader
from stages.video.text_reader import RapidOcrReader
from tests.stages.models.photos import astronaut

needs_it = pytest.mark.skipif(
    importlib.util.find_spec("rapidocr_onnxruntime") is None, reason="an optional package"
)
NOBODY = np.zeros((0, 4), np.float32)


@pytest.fixture(scope="module")
def reader():
    return RapidOcrReader()


def frame(text="", size=(960, 540)):
    """Return a person's photograph under a line of text, and where the line is."""
    picture = cv2.resize(astronaut(), size, interpolation=cv2.INTER_AREA)
    if not text:
        return picture, None
    font, scale, weight = cv2.FONT_HERSHEY_SIMPLEX, 2.0, 4
    (wide, high), _ = cv2.getTextSize(text, font, scale, weight)
    left, bottom = 60, size[1] - 40
    cv2.putText(picture, text, (left, bottom), font, scale, (255, 255, 255), weight)
    return picture, (left, bottom - high, left + wide, bottom)


def overlap(one, other):
    left, top = np.maximum(one[:2], other[:2])
    right, bottom = np.minimum(one[2:], other[2:])
    both = max(right - left, 0) * max(bottom - top, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


@needs_it
def test_a_drawn_line_is_found_in_its_place(reader):
    assert isinstance(reader, TextReader)
    picture, box = frame("SUBSCRIBE TODAY")
    found = reader.find(picture)
    assert found.dtype == np.float32
    assert max(overlap(each, np.array(box)) for each in found) > 0.6
    bare, _ = frame()
    assert len(reader.find(bare)) == len(found) - 1, "what else is there is on the photograph"


@needs_it
def test_an_empty_picture_has_no_writing(reader):
    assert reader.find(np.full((360, 640, 3), 90, np.uint8)).shape == (0, 4)
    assert reader.find(np.zeros((8, 8, 3), np.uint8)).shape == (0, 4)


@needs_it
def test_a_clip_under_a_banner_has_the_larger_share_of_text(reader):
    shares = {}
    for words in ("", "BREAKING NEWS"):
        picture, _ = frame(words)
        scores = ClipScores(picture.shape[1], picture.shape[0], reader)
        scores.add(cv2.resize(picture, (256, 144)), 0.0)
        scores.look(picture, NOBODY)
        shares[words] = scores.finish().text_share
    assert shares["BREAKING NEWS"] > shares[""] + 0.03


@needs_it
def test_the_record_says_which_weights_found_it(reader):
    assert (reader.card.license, len(reader.card.sha256)) == ("Apache-2.0", 64)


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(text_reader, "_PACKAGE", "no_such_package")
    with pytest.raises(BadWeights, match="pip install rapidocr-onnxruntime"):
        RapidOcrReader()
