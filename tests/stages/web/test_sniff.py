from io import BytesIO

import pytest
from PIL import Image

from stages.web.sniff import HEAD_BYTES, sniff

EBML = b"\x1aE\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1B\xf2\x81\4B\xf3\x81\x08B\x82"


@pytest.mark.parametrize(
    ("form", "kind"),
    [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("GIF", "image/gif"), ("WEBP", "image/webp"),
     ("BMP", "image/bmp"), ("TIFF", "image/tiff")],
)  # fmt: skip
def test_what_pillow_writes_is_known_by_its_first_bytes(form, kind):
    out = BytesIO()
    Image.new("RGB", (40, 30)).save(out, form)
    assert sniff(out.getvalue()[:HEAD_BYTES]) == kind


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "video/mp4"),
        (b"\0\0\0\x14ftypqt  \0\0\2\0qt  ", "video/quicktime"),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "video/quicktime"),
        (EBML + b"\x84webm", "video/webm"),
        (EBML + b"\x88matroska", "video/x-matroska"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "image/avif"),
    ],
)  # fmt: skip
def test_containers_are_told_apart_by_their_brand(head, kind):
    assert sniff(head) == kind


@pytest.mark.parametrize(
    "head", [b"", b"\xff", b"<html>", b"<svg onload=alert(1)>", b"%PDF-1.7", b"RIFF\0\0\0\0WAVE"]
)
def test_anything_else_is_nothing(head):
    assert sniff(head) == ""
