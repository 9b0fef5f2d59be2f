"""Who looks at videos, and what the record says of them."""

from dataclasses import replace
from importlib.util import find_spec

import pytest

from infra.errors import BadWeights
from pipelines.video.models import models_of, text_reader
from pipelines.video.recipes import faceid_video
from stages.models.dlib_faces import detector_card, embedder_card
from stages.video.scores import TextReader

READS = replace(faceid_video(), text_reader="rapidocr")
INSTALLED = find_spec("rapidocr_onnxruntime") is not None


def test_nobody_reads_unless_asked_to():
    assert text_reader(faceid_video()) is None
    assert [card.name for card in models_of(faceid_video())] == [
        card.name for card in (detector_card(), embedder_card())
    ]


@pytest.mark.skipif(not INSTALLED, reason="rapidocr-onnxruntime is not installed")
def test_a_reader_is_made_and_recorded():
    make = text_reader(READS)
    assert make is not None
    assert isinstance(make(), TextReader)
    assert [card.name for card in models_of(READS)][2:] == ["PP-OCRv4-det"]


@pytest.mark.skipif(INSTALLED, reason="rapidocr-onnxruntime is installed")
def test_a_reader_that_is_not_installed_is_refused_before_anything_is_watched():
    with pytest.raises(BadWeights, match="rapidocr"):
        models_of(READS)
