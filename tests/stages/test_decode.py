import io
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from infra.errors import BadValue
from stages.columns import ERRORS
from stages.decode import FORMATS, BadPicture, Decode, decode
from stages.types import Stage

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def picture(width=80, height=40):
    """Red on the left, blue on the right, so that turning and mirroring show."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def noise(width=300, height=200):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def file(image, format="PNG", **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def turned(image, orientation, format="JPEG"):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return file(image, format, exif=exif)


def png_header(width, height):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def near(pixel, colour):
    return np.abs(pixel.astype(int) - colour).max() <= 6


def error_of(blob, **limits):
    with pytest.raises(BadPicture) as caught:
        decode(blob, **limits)
    return caught.value.error, caught.value.detail


@pytest.mark.parametrize("format", FORMATS)
def test_every_allowed_format_is_decoded(format):
    got = decode(file(picture(), format))
    assert (got.width_px, got.height_px, got.mime) == (80, 40, f"image/{format.lower()}")
    assert got.pixels.shape == (40, 80, 3)
    assert got.pixels.flags.writeable
    assert near(got.pixels[20, 10], RED)
    assert near(got.pixels[20, 70], BLUE)


@pytest.mark.parametrize("format", ["PPM", "ICO", "AVIF", "TGA"])
def test_no_other_format_is(format):
    assert error_of(file(picture(), format))[0] == "not_an_image"


def test_a_phones_jpeg_with_two_pictures_is_a_jpeg():
    got = decode(file(picture(), "MPO", save_all=True, append_images=[picture(8, 8)]))
    assert (got.mime, got.pixels.shape) == ("image/jpeg", (40, 80, 3))


def test_the_long_side_is_reduced_and_the_full_size_remembered():
    for format in ("JPEG", "PNG"):
        got = decode(file(picture(2000, 1000), format), work_px=500)
        assert (got.width_px, got.height_px) == (2000, 1000)
        assert got.pixels.shape == (250, 500, 3)


def test_a_small_picture_is_not_enlarged():
    assert decode(file(picture()), work_px=1600).pixels.shape == (40, 80, 3)


def test_a_thin_picture_keeps_one_pixel():
    assert decode(file(picture(4000, 2)), work_px=100).pixels.shape == (1, 100, 3)


def test_reduction_averages_areas():
    black_and_white = np.indices((400, 400)).sum(axis=0) % 2 * 255
    got = decode(file(Image.fromarray(black_and_white.astype(np.uint8))), work_px=100)
    assert near(got.pixels.reshape(-1, 3), (128, 128, 128))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_ends_upright(orientation, format):
    upright = picture(80, 40)
    upright.paste(GREEN, (0, 0, 40, 20))  # three colours tell all eight apart
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the Transpose that brings each about
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    got = decode(turned(stored, orientation, format))
    assert (got.width_px, got.height_px) == (80, 40)
    assert got.pixels.shape == (40, 80, 3)
    for (y, x), colour in {(5, 5): GREEN, (35, 5): RED, (5, 75): BLUE}.items():
        assert near(got.pixels[y, x], colour)


def test_a_nonsense_orientation_is_ignored():
    assert decode(turned(picture(), 77)).pixels.shape == (40, 80, 3)


def test_transparency_shows_white():
    image = picture().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    got = decode(file(image))
    assert near(got.pixels[0, 10], WHITE)
    assert near(got.pixels[39, 10], RED)
    palette = Image.new("P", (8, 8), 0)
    assert near(decode(file(palette, transparency=0)).pixels[4, 4], WHITE)


def test_transparent_pixels_do_not_bleed_when_reduced():
    image = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 200, 101))  # an edge that no block of 2 falls on
    got = decode(file(image), work_px=100)
    assert near(got.pixels[50, 50], (255, 128, 128))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode):
    grey = Image.new("RGB", (80, 40), WHITE).convert(mode)
    format = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    assert near(decode(file(grey, format)).pixels[20, 20], WHITE)


def test_the_colours_of_a_cmyk_jpeg_are_right():
    assert near(decode(file(picture().convert("CMYK"), "JPEG")).pixels[20, 10], RED)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(np.uint16, 32896), (np.uint8, 128), (np.int32, 32896), (np.float32, 0.502)],
)
def test_deep_greys_are_scaled_to_eight_bits(dtype, value):
    grey = np.full((40, 80), value, dtype)
    grey[0, 0] = {np.uint16: 65535, np.uint8: 255, np.int32: 65535, np.float32: 1}[dtype]
    assert near(decode(file(Image.fromarray(grey), "TIFF")).pixels[20, 20], (128, 128, 128))


def test_a_dark_deep_picture_stays_dark():
    dark = Image.fromarray(np.full((40, 80), 1000, np.uint16))
    assert near(decode(file(dark)).pixels[20, 20], (4, 4, 4))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_is_shown(format):
    first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), BLUE)
    blob = file(first, format, save_all=True, append_images=[second])
    assert near(decode(blob).pixels[4, 4], RED)


def test_a_bomb_is_refused_by_its_header():
    error, detail = error_of(png_header(9000, 9000))
    assert (error, detail) == ("too_many_pixels", "9000 x 9000 pixels, 64 megapixels allowed")
    assert error_of(png_header(60_000, 60_000))[0] == "too_many_pixels"  # Pillow's own guard
    assert error_of(file(picture(1001, 1000)), max_megapixels=1.0)[0] == "too_many_pixels"
    assert decode(file(picture(1000, 1000)), max_megapixels=1.0).width_px == 1000


def test_pillows_warnings_do_not_surface():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert error_of(png_header(10_000, 9500))[0] == "too_many_pixels"
        decode(file(Image.new("P", (8, 8)), transparency=b"\0\1"))
    assert seen == []


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_a_truncated_picture_is_broken(format):
    blob = file(noise(), format)
    assert error_of(blob[: len(blob) // 2])[0] == "broken_image"
    assert error_of(blob[:14])[0] == "broken_image"


@pytest.mark.parametrize(
    ("blob", "words"),
    [
        (b"<!DOCTYPE html><html><body>No such picture", "'<!DOCTYPE html><html>"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "'<svg"),
        (b"Not found", "'Not found'"),
        (b"\0\1\xff\xfe", r"'\x00\x01..'"),
    ],
)
def test_what_is_no_picture_is_quoted(blob, words):
    error, detail = error_of(blob)
    assert error == "not_an_image"
    assert words in detail
    assert len(detail) < 200


def test_damaged_files_raise_nothing_but_bad_picture():
    rng = random.Random(0)
    outcomes = set()
    for format in FORMATS:
        good = file(noise(40, 30), format)
        for _ in range(100):
            bad = bytearray(good)
            for _ in range(rng.randrange(1, 6)):
                bad[rng.randrange(min(len(bad), 200))] = rng.randrange(256)
            try:
                decode(bytes(bad))
                outcomes.add("decoded")
            except BadPicture as problem:
                outcomes.add(problem.error)
    assert outcomes <= {"decoded", *ERRORS}
    assert {"decoded", "broken_image", "not_an_image"} <= outcomes


def test_the_stage_writes_what_it_declares_for_good_rows_and_bad():
    stage = Decode()
    blobs = [file(picture()), b"<html>", file(noise(), "JPEG")[:500]]
    out = stage({"blob": blobs})
    assert isinstance(stage, Stage)
    assert tuple(out) == Decode.writes
    assert out["error"] == ["", "not_an_image", "broken_image"]
    assert [pixels is None for pixels in out["pixels"]] == [False, True, True]
    assert out["width_px"] == [80, None, None]
    assert out["mime"] == ["image/png", None, None]
    assert out["bytes_len"] == [len(blob) for blob in blobs]
    assert out["error_detail"][0] == ""
    assert all(out["error_detail"][1:])


def test_more_pixels_than_pillow_ever_opens_cannot_be_allowed():
    with pytest.raises(BadValue, match="max_megapixels cannot be 200"):
        Decode(max_megapixels=200.0)
