import struct
import zlib
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from serving.errors import Refusal
from serving.uploads import encode, fit, fit_mask, inspect, mask, picture
from tests.serving.doors import data, she

LIMIT = 1_000_000
NOISE = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)


def frames(kind, **how):
    stills = [Image.fromarray(np.roll(NOISE, i, axis=0)) for i in range(3)]
    return data(stills[0], kind, save_all=True, append_images=stills[1:], duration=100, **how)


def png_that_promises(width, height):
    """Return a PNG whose header promises any size, with a few bytes of pixels."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    parts = chunk(b"IHDR", head), chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def webp_that_promises(width, height):
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    content = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas + bytes(20)
    return b"RIFF" + struct.pack("<I", len(content)) + content


HOSTILE = {
    "nothing": (b"\0", "unsupported_media_type"),
    "text": (b"/etc/passwd", "unsupported_media_type"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_media_type"),
    "script": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported_media_type"),
    "gif": (data(NOISE, "GIF"), "unsupported_media_type"),
    "moving gif": (frames("GIF"), "unsupported_media_type"),
    "bmp": (data(NOISE, "BMP"), "unsupported_media_type"),
    "tiff": (data(NOISE, "TIFF"), "unsupported_media_type"),
    "moving png": (frames("PNG"), "animated_image"),
    "moving webp": (frames("WEBP"), "animated_image"),
    "100 megapixels": (png_that_promises(10_000, 10_000), "too_many_pixels"),
    "beyond any picture": (png_that_promises(2**31 - 1, 2**31 - 1), "too_many_pixels"),
    "a line": (png_that_promises(2**30, 1), "too_many_pixels"),
    "webp canvas": (webp_that_promises(2**24, 2**24), "too_many_pixels"),
    "fewer pixels than promised": (png_that_promises(600, 600), "unreadable_image"),
    "cut jpeg": (she()[: len(she()) // 2], "unreadable_image"),
    "cut png": (data(NOISE, "PNG")[:-40], "unreadable_image"),
    "cut webp": (data(NOISE, "WEBP")[:-40], "unreadable_image"),
    "only a beginning": (b"\xff\xd8\xff", "unreadable_image"),
    "webp that is text": (b"RIFF\0\0\0\0WEBPhello", "unreadable_image"),
    "jpeg that is a tiff": (b"\xff\xd8\xff" + data(NOISE, "TIFF"), "unreadable_image"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_by_its_right_name(name):
    blob, code = HOSTILE[name]
    with pytest.raises(Refusal) as refusal:
        picture(blob, LIMIT)
    assert refusal.value.code == code


def test_random_damage_never_ends_in_anything_but_a_picture_or_a_refusal():
    rng = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "WEBP"):
        whole = np.frombuffer(data(NOISE, kind), dtype=np.uint8)
        for _ in range(40):
            blob = whole.copy()
            blob[rng.integers(0, len(blob), 5)] = rng.integers(0, 256, 5)
            with suppress(Refusal):
                assert picture(blob.tobytes(), LIMIT).size <= 3 * LIMIT


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_what_hangs_behind_a_picture_is_not_looked_at(kind):
    blob = data(NOISE, kind)
    both = blob + b"PK\x03\x04 <script>alert(1)</script>" + data(255 - NOISE, "PNG")
    assert np.array_equal(picture(both, LIMIT), picture(blob, LIMIT))


def test_a_picture_comes_out_upright_and_over_white():
    image = Image.fromarray(NOISE)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture(data(image, "PNG", exif=exif), LIMIT)
    assert turned.shape == (30, 40, 3)
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert picture(data(clear, "PNG"), LIMIT).min() == 255


def test_the_limit_counts_pixels_and_lets_the_last_allowed_one_in():
    blob = data(NOISE, "PNG")
    inspect(blob, 1200)
    with pytest.raises(Refusal, match="1199 are allowed"):
        inspect(blob, 1199)


def test_a_mask_is_true_where_it_is_transparent():
    alpha = np.full((6, 8, 4), 255, dtype=np.uint8)
    alpha[1:3, 2:5, 3] = 0
    where = mask(data(alpha, "PNG"), LIMIT)
    assert where.sum() == 6
    assert where[1:3, 2:5].all()
    with pytest.raises(Refusal, match="no transparent pixel"):
        mask(data(NOISE, "PNG"), LIMIT)


def test_a_mask_is_cut_as_its_picture_is():
    where = np.zeros((40, 80), dtype=bool)
    where[:, 40:] = True
    shown = fit(np.repeat(where[:, :, None], 3, axis=2).astype(np.uint8) * 255, 20, 20)
    assert np.array_equal(fit_mask(where, 20, 20), shown[:, :, 0] > 127)


@pytest.mark.parametrize("output", ["png", "jpeg", "webp"])
def test_what_is_sent_back_has_no_metadata(output):
    with Image.open(BytesIO(encode(NOISE, output))) as image:
        assert image.format == output.upper()
        assert not set(image.info) - {"jfif", "jfif_version", "jfif_unit", "jfif_density", "loop",
                                      "background", "timestamp", "duration"}  # fmt: skip
    if output == "png":
        assert np.array_equal(picture(encode(NOISE, output), LIMIT), NOISE)
    else:
        assert len(encode(NOISE, output, 20)) < len(encode(NOISE, output))
