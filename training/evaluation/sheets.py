"""The contact sheet: photographs and drawings of the same people, side by side, as one picture."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from stages.types import RGB

SHOWN = 16
"""People on a sheet."""
CELL_PX = 128
"""Longer side of a picture on a sheet."""
_GAP_PX, _WORDS_PX, _FONT_PX = 6, 16, 12

Cell = tuple[str, RGB, str]
"""Heading of its column, picture, and what stands below it."""


class Row(list[Cell]):
    """One person's pictures."""


def thumbnail(picture: UInt8[np.ndarray, "height width 3"]) -> RGB:
    """Fit a picture into a cell; small ones are enlarged by whole numbers, so that pixels show."""
    longest = max(picture.shape[:2])
    if longest <= CELL_PX:
        times = CELL_PX // longest
        return np.asarray(picture.repeat(times, axis=0).repeat(times, axis=1), dtype=np.uint8)
    scale = CELL_PX / longest
    size = (max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def contact_sheet(rows: Sequence[Row], title: str) -> Image.Image:
    """Lay people out in two halves, one row each, under headings.

    Args:
        rows: All with the same headings in the same order.
        title: One line above.
    """
    columns = len(rows[0])
    half = (len(rows) + 1) // 2
    sides = [side for side in (rows[:half], rows[half:]) if side]
    step_x, step_y = CELL_PX + _GAP_PX, CELL_PX + _WORDS_PX + _GAP_PX
    width = len(sides) * columns * step_x + (len(sides) - 1) * 3 * _GAP_PX + _GAP_PX
    sheet = Image.new("RGB", (width, 2 * (_WORDS_PX + _GAP_PX) + half * step_y), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_PX)
    pen.text((_GAP_PX, _GAP_PX), title, "black", font)
    for number, side in enumerate(sides):
        left = _GAP_PX + number * (columns * step_x + 3 * _GAP_PX)
        for row, cells in enumerate(side):
            top = 2 * (_WORDS_PX + _GAP_PX) + row * step_y
            for column, (heading, picture, words) in enumerate(cells):
                x = left + column * step_x
                if row == 0:
                    pen.text((x, _WORDS_PX + 2 * _GAP_PX), heading, "black", font)
                sheet.paste(Image.fromarray(picture), (x, top))
                pen.text((x, top + CELL_PX + 1), words, "dimgrey", font)
    return sheet
