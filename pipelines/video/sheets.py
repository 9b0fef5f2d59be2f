"""Contact sheets: a few frames of a clip side by side, with whose faces they show drawn in."""

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from infra.storage import Folder
from pipelines.reports.thumbnails import Thumbnail
from pipelines.video.exported import Clip, Track, frames_of
from stages.types import RGB

FRAMES = 6
"""How many frames of a clip are shown."""
_HIGH_PX, _GAP_PX, _FACE_PX, _AROUND = 128, 3, 96, 1.5
_FONT_PX, _HALO, _NOBODY = 11, "#10211f", "#ffffff"


def contact_sheet(export: Folder, clip: Clip, colours: Mapping[str, str]) -> Thumbnail:
    """Show frames of a clip from its main person's first look to the last.

    Every face has its box, the number of its track and, shortened, its person.

    Args:
        export: The export's folder.
        clip: Which clip.
        colours: By person; who has none is drawn in white.

    Raises:
        UnreadableSource: The clip's file is gone or damaged.
    """
    looks = clip.main.frames if clip.tracks else range(clip.start_frame, clip.end_frame)
    chosen = evenly(looks, FRAMES)
    pictures = frames_of(export, clip, [frame - clip.start_frame for frame in chosen])
    shown = [
        _drawn(picture, frame, clip.tracks, colours)
        for picture, frame in zip(pictures, chosen, strict=True)
    ]
    sheet = Image.new("RGB", (sum(s.width + _GAP_PX for s in shown) - _GAP_PX, _HIGH_PX), "white")
    left = 0
    for each in shown:
        sheet.paste(each, (left, 0))
        left += each.width + _GAP_PX
    return _packed(sheet)


def best_face(export: Folder, clip: Clip, track: Track) -> Thumbnail:
    """Cut out the face of a track where it is seen best, as a square.

    Raises:
        UnreadableSource: The clip's file is gone or damaged.
    """
    (picture,) = frames_of(export, clip, [track.best_frame - clip.start_frame])
    left, top, right, bottom = track.boxes_px[track.frames.index(track.best_frame)]
    half = max(right - left, bottom - top, 2) * _AROUND / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    around = (round(x - half), round(y - half), round(x + half), round(y + half))
    face = Image.fromarray(picture).crop(around)
    return _packed(face.resize((_FACE_PX, _FACE_PX), Image.Resampling.BICUBIC))


def evenly(items: Sequence[int], count: int) -> list[int]:
    """Choose at most ``count`` items, the first and the last among them, evenly between."""
    at = np.linspace(0, len(items) - 1, min(count, len(items))).round()
    return [items[int(i)] for i in at]


def _drawn(
    picture: RGB, frame: int, tracks: Sequence[Track], colours: Mapping[str, str]
) -> Image.Image:
    """Shrink a frame and draw the faces that were found in it, the first track's on top."""
    scale = _HIGH_PX / picture.shape[0]
    size = (max(1, round(picture.shape[1] * scale)), _HIGH_PX)
    small = Image.fromarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
    pen, font = ImageDraw.Draw(small), ImageFont.load_default(size=_FONT_PX)
    for track in reversed(tracks):
        if frame not in track.frames:
            continue
        left, top, right, bottom = (v * scale for v in track.boxes_px[track.frames.index(frame)])
        colour = colours.get(track.person, _NOBODY)
        pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_HALO, width=4)
        pen.rectangle((left, top, right, bottom), outline=colour, width=2)
        label = f"{track.track_id} {track.person[:6]}".strip()
        place = (min(left, small.width - font.getlength(label) - 4), max(top - _FONT_PX - 4, 0))
        back = pen.textbbox(place, label, font=font)
        pen.rectangle((back[0] - 2, back[1] - 2, back[2] + 2, back[3] + 2), fill=colour)
        pen.text(place, label, fill=_HALO, font=font)
    return small


def _packed(picture: Image.Image) -> Thumbnail:
    file = BytesIO()
    picture.save(file, "JPEG", quality=80)
    return Thumbnail(base64.b64encode(file.getvalue()).decode("ascii"), *picture.size)
