import io
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from stages.hashes import Hash, pdq
from stages.types import Stage

SAME = 31  # bits; the customary bound for one photograph in two files


def photograph(name):
    return Image.open(Path(find_spec("skimage").origin).parent / "data" / name).convert("RGB")


@pytest.fixture(scope="module")
def astronaut():
    return photograph("astronaut.png")


def bits(a, b):
    return sum((x ^ y).bit_count() for x, y in zip(a, b, strict=True))


def jpeg(image, quality):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(out)


def test_a_hash_has_256_bits_of_which_half_are_set(astronaut):
    plain, mirror, quality = pdq(np.array(astronaut))
    assert len(plain) == len(mirror) == 32
    assert 112 <= sum(byte.bit_count() for byte in plain) <= 144
    assert quality == 100


@pytest.mark.parametrize("scale", [0.4, 0.7, 1.5, 3.0])
def test_a_resized_and_recompressed_copy_hashes_alike(astronaut, scale):
    copy = jpeg(astronaut.resize((round(512 * scale),) * 2), quality=40)
    assert bits(pdq(np.array(copy))[0], pdq(np.array(astronaut))[0]) <= SAME


def test_another_photograph_does_not(astronaut):
    for name in ("chelsea.png", "coffee.png", "rocket.jpg"):
        assert bits(pdq(np.array(photograph(name)))[0], pdq(np.array(astronaut))[0]) > 90


def test_the_mirror_hash_is_the_hash_of_the_mirrored_picture(astronaut):
    plain, mirror, _ = pdq(np.array(astronaut))
    flipped = np.array(ImageOps.mirror(astronaut))
    assert pdq(flipped)[:2] == (mirror, plain)
    assert bits(pdq(np.flipud(np.array(astronaut)))[0], mirror) > 90


def test_a_mirrored_and_recompressed_copy_is_known_by_the_mirror_hash(astronaut):
    copy = jpeg(ImageOps.mirror(astronaut).resize((300, 300)), quality=40)
    assert bits(pdq(np.array(copy))[0], pdq(np.array(astronaut))[1]) <= SAME


def test_the_order_of_the_memory_does_not_matter(astronaut):
    pixels = np.array(astronaut)
    assert pdq(np.asfortranarray(pixels)) == pdq(pixels)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 2000, 3), (2000, 1, 3), (64, 64, 3)])
def test_a_plain_picture_of_any_shape_has_no_quality(shape):
    assert pdq(np.full(shape, 200, np.uint8))[2] == 0


def test_the_stage_hashes_bytes_and_looks(astronaut):
    pixels = np.array(astronaut)
    out = Hash()({"blob": [b"one", b"two"], "pixels": [pixels, pixels]})
    assert isinstance(Hash(), Stage)
    assert tuple(out) == Hash.writes
    assert out["sha256"] == [sha256(blob).hexdigest() for blob in (b"one", b"two")]
    assert out["pdq"][0] == out["pdq"][1] == pdq(pixels)[0]
    assert out["pdq_mirror"][0] == pdq(pixels)[1]
    assert out["pdq_quality"] == [100, 100]
