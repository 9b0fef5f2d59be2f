from functools import cache

import cv2
import numpy as np
import pytest

from serving.provenance.settings import ProvenanceSettings
from serving.provenance.spread import SpreadMark
from serving.provenance.watermark import FOUND_SIGMA, Watermark, load_watermark
from tests.serving.provenance.edits import EDITS, psnr_db, resize
from tests.stages.models.photos import astronaut, group, hanks

PAYLOAD = 0x00C0FFEE


@cache
def mark():
    return SpreadMark(b"a secret of tests")


@cache
def marked():
    return mark().embed(astronaut(), PAYLOAD)


@pytest.mark.parametrize("name", EDITS)
def test_a_mark_survives(name):
    reading = mark().read(EDITS[name](marked(), np.random.default_rng(3)))
    assert reading.payload == PAYLOAD
    assert reading.confidence_sigma > 2 * FOUND_SIGMA


def test_nobody_sees_it():
    assert psnr_db(astronaut(), marked()) > 40
    assert np.abs(astronaut().astype(int) - marked()).max() <= 40
    shift = astronaut().astype(float).mean((0, 1)) - marked().mean((0, 1))
    assert np.abs(shift).max() < 0.1


@pytest.mark.parametrize(
    ("payload", "shape"), [(0, (256, 256)), (2**31 + 1, (600, 300)), (2**32 - 1, (300, 1100))]
)
def test_any_payload_is_carried_in_any_shape(payload, shape):
    picture = cv2.resize(group(), shape[::-1], interpolation=cv2.INTER_AREA)
    assert mark().read(mark().embed(picture, payload)).payload == payload


def test_black_white_and_flat_pictures_break_nothing():
    for level in (0, 128, 255):
        flat = np.full((256, 300, 3), level, np.uint8)
        assert mark().read(flat).payload is None
        assert mark().embed(flat, 5).shape == flat.shape
    grey = np.full((512, 512, 3), 128, np.uint8)
    assert mark().read(mark().embed(grey, 5)).payload == 5


@pytest.mark.parametrize("photo", [astronaut, hanks, group])
def test_a_picture_that_was_not_marked_reads_as_none(photo):
    reading = mark().read(photo())
    assert reading.payload is None
    assert reading.confidence_sigma < 5


def test_who_does_not_know_the_secret_reads_nothing():
    reading = SpreadMark(b"another").read(marked())
    assert reading.payload is None
    assert reading.confidence_sigma < 5


def test_a_picture_that_was_marked_twice_is_read_as_one_of_the_two_or_as_none():
    twice = mark().embed(marked(), 77)
    assert mark().read(twice).payload in (77, PAYLOAD, None)


def test_the_same_picture_is_marked_the_same_way():
    assert np.array_equal(marked(), mark().embed(astronaut(), PAYLOAD))


def test_small_pictures_carry_it_until_they_are_harmed():
    small = mark().embed(resize(astronaut(), 0.5), PAYLOAD)
    assert small.shape == (256, 256, 3)
    for name in ("as it is", "JPEG 85", "crop 10 %"):
        reading = mark().read(EDITS[name](small, np.random.default_rng(1)))
        assert reading.payload == PAYLOAD, name


def test_the_recipe_says_what_marks():
    spread = load_watermark(ProvenanceSettings(), b"s")
    assert isinstance(spread, Watermark)
    assert (spread.strong, spread.method) == (False, "visage-spread-1")
    assert load_watermark(ProvenanceSettings(watermark="none"), b"s") is None
