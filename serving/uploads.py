"""Pictures that strangers send, and pictures that are sent back; nothing a file says is trusted.

The first bytes decide what a file is, and only that format's decoder sees it: what else a polyglot
may be, or carries behind its end, is never looked at. Size and number of frames are read from the
header, before anything is decoded. What is sent back is encoded afresh, without metadata.
"""

import warnings
from io import BytesIO
from typing import Literal

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageOps

from serving.errors import Refusal
from serving.types import RGB
from stages.decode import BadPicture, decode

OutputFormat = Literal["png", "jpeg", "webp"]

_ACCEPTED = "send a JPEG, a PNG or a WebP picture"
_WHOLE_PX = 2**20  # of the long side: no reduction
_PNG_LEVEL = 3  # twice as fast as zlib's default, five percent larger
_QUALITY = 95


def sniff(blob: bytes) -> str:
    """Return Pillow's name of the format that a file begins like.

    Raises:
        Refusal: ``unsupported_media_type``: of none that is accepted.
    """
    if blob.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if blob.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if blob[:4] == b"RIFF" and blob[8:12] == b"WEBP":
        return "WEBP"
    raise Refusal("unsupported_media_type", f"The file is of no format known here; {_ACCEPTED}.")


def inspect(blob: bytes, max_pixels: int) -> None:
    """See from its header that a picture may be decoded.

    Raises:
        Refusal: ``unsupported_media_type``, ``unreadable_image``, ``animated_image`` or
            ``too_many_pixels``.
    """
    kind = sniff(blob)
    if kind == "WEBP":
        # libwebp reserves the whole canvas when it is merely opened.
        _allow(*_webp_sides_px(blob), max_pixels)
    with _open(blob, kind, max_pixels) as image:
        _allow(*image.size, max_pixels)
        # A phone's JPEG may carry its own preview as a second picture; that is no animation.
        if kind != "JPEG" and getattr(image, "is_animated", False):
            raise Refusal("animated_image", "The picture moves; send a still one.")


def picture(blob: bytes, max_pixels: int) -> RGB:
    """Decode a picture: upright, over white, at its full size.

    Raises:
        Refusal: See ``inspect``; also ``unreadable_image`` for one that is cut off or damaged.
    """
    inspect(blob, max_pixels)
    try:
        return decode(blob, max_pixels / 1e6, _WHOLE_PX).pixels
    except BadPicture as problem:
        raise refused(problem.error, problem.detail) from None


def refused(error: str, detail: str) -> Refusal:
    """Say as a refusal why the decoding stage had nothing to show."""
    if error == "too_many_pixels":
        return Refusal(error, f"The picture is too large: {detail}.")
    return Refusal("unreadable_image", f"The picture is damaged or cut off: {detail}.")


def mask(blob: bytes, max_pixels: int) -> Bool[np.ndarray, "height width"]:
    """Read where to draw: True where the picture is fully transparent, as OpenAI's masks are.

    Raises:
        Refusal: See ``picture``; ``invalid_value`` if nothing is transparent.
    """
    inspect(blob, max_pixels)
    with _open(blob, sniff(blob), max_pixels) as image:
        try:
            alpha = np.asarray(ImageOps.exif_transpose(image).convert("RGBA"))[:, :, 3]
        except Exception as problem:  # a hostile file makes a decoder raise anything at all
            raise refused("broken_image", str(problem)) from None
    where = np.asarray(alpha == 0)
    if not where.any():
        cure = "make it transparent (alpha 0) where to draw"
        raise Refusal("invalid_value", f"mask has no transparent pixel: {cure}.", {"field": "mask"})
    return where


def fit(picture: RGB, width_px: int, height_px: int) -> RGB:
    """Scale a picture to cover a size, and cut what stands over on both sides alike."""
    if picture.shape[:2] == (height_px, width_px):
        return picture
    return np.array(ImageOps.fit(Image.fromarray(picture), (width_px, height_px)))


def fit_mask(
    where: Bool[np.ndarray, "height width"], width_px: int, height_px: int
) -> Bool[np.ndarray, "height width"]:
    """Scale and cut a mask as ``fit`` does its picture."""
    if where.shape == (height_px, width_px):
        return where
    how = Image.Resampling.NEAREST
    return np.array(ImageOps.fit(Image.fromarray(where), (width_px, height_px), method=how))


def encode(picture: RGB, output: OutputFormat, quality: int | None = None) -> bytes:
    """Encode a picture, with no metadata.

    Args:
        picture: What was drawn.
        output: Its format.
        quality: 0 to 100, of JPEG and WebP; None: 95.
    """
    out = BytesIO()
    if output == "png":
        Image.fromarray(picture).save(out, "PNG", compress_level=_PNG_LEVEL)
    else:
        level = _QUALITY if quality is None else quality
        Image.fromarray(picture).save(out, output.upper(), quality=level)
    return out.getvalue()


def _open(blob: bytes, kind: str, max_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's views on odd files; the outcome says enough
            return Image.open(BytesIO(blob), formats=[kind])
    except Image.DecompressionBombError:
        raise _too_large(f"{max_pixels} pixels are allowed") from None
    except Exception as problem:  # a hostile header makes a decoder raise anything at all
        raise refused("broken_image", "its header cannot be read") from problem


def _allow(width_px: int, height_px: int, max_pixels: int) -> None:
    if width_px * height_px > max_pixels:
        raise _too_large(f"{width_px} x {height_px} pixels, {max_pixels} are allowed")


def _too_large(detail: str) -> Refusal:
    return refused("too_many_pixels", detail)


def _webp_sides_px(blob: bytes) -> tuple[int, int]:
    """Read a WebP's canvas from its first chunk (RFC 9649); 0 x 0 if there is none to read."""
    kind, head = blob[12:16], blob[20:30]
    if len(head) < 10:
        return 0, 0
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    low = [int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (6, 8)]
    return low[0], low[1]
