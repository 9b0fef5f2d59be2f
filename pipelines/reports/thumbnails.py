"""Make small pictures for the report, with boxes around the faces."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageDraw

from stages.decode import BadPicture, decode

Box = Sequence[float]
"""Left, top, right, bottom in pixels of the upright picture in full."""

_SIDE_PX = 320
_FACE_PX, _FACE_WORK_PX, _AROUND = 112, 1024, 1.4
"""Side of a face's square, side of the picture that it is cut from, and the square in boxes."""
_LINES = 72
"""Lines this many times thinner than the long side look alike on pictures of any size."""
_MAIN, _OTHER, _HALO = "#2fd3c0", "#ffffff", "#10211f"


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A JPEG that a page can hold in itself."""

    base64: str
    width_px: int
    height_px: int


def thumbnail(blob: bytes, boxes_px: Sequence[Box]) -> Thumbnail | None:
    """Shrink a picture and draw its boxes, the main face's in colour.

    Args:
        blob: The file as it was found; it may be anything.
        boxes_px: One box per face, main face first.

    Returns:
        The thumbnail, or ``None`` where the bytes are no picture that can be shown.
    """
    try:
        picture = decode(blob, work_px=_SIDE_PX)
    except BadPicture:
        return None
    small = Image.fromarray(picture.pixels)
    _draw(ImageDraw.Draw(small), boxes_px, small.width / picture.width_px)
    return _packed(small)


def face_thumbnail(blob: bytes, box_px: Box) -> Thumbnail | None:
    """Cut out a face with some of what is around it, as a square.

    Args:
        blob: The file as it was found; it may be anything.
        box_px: Of the face.

    Returns:
        The thumbnail, or ``None`` where the bytes are no picture that can be shown.
    """
    try:
        picture = decode(blob, work_px=_FACE_WORK_PX)
    except BadPicture:
        return None
    scale = picture.pixels.shape[1] / picture.width_px
    left, top, right, bottom = (side * scale for side in box_px)
    half = max(right - left, bottom - top, 2) * _AROUND / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    whole = Image.fromarray(picture.pixels)
    small = whole.crop((round(x - half), round(y - half), round(x + half), round(y + half)))
    small = small.resize((_FACE_PX, _FACE_PX), Image.Resampling.BICUBIC)
    return _packed(small)


def _packed(small: Image.Image) -> Thumbnail:
    file = BytesIO()
    small.save(file, "JPEG", quality=82)
    return Thumbnail(base64.b64encode(file.getvalue()).decode("ascii"), *small.size)


def _draw(pen: ImageDraw.ImageDraw, boxes_px: Sequence[Box], scale: float) -> None:
    """Draw light lines on a dark halo, which stand out on any picture; the main face on top."""
    width = max(1, round(max(pen.im.size) / _LINES))
    for number, box in reversed(list(enumerate(boxes_px))):
        left, top, right, bottom = (side * scale for side in box)
        halo = (left - 1, top - 1, right + 1, bottom + 1)
        pen.rectangle(halo, outline=_HALO, width=width + 2)
        pen.rectangle((left, top, right, bottom), outline=_OTHER if number else _MAIN, width=width)
