"""The small web's pages: photographs that our dependencies carry, and every trap there is.

The photographs are found where pip put them and are never copied into the repository; each page
states their licence.
"""

import struct
import zlib
from dataclasses import dataclass, replace
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Literal

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from infra.errors import UnreadableSource

_NASA = "public domain (NASA)"
_MIT = "MIT package sample; rights in the photograph not stated"
_PHOTOGRAPHS = {  # name: package, file in it, licence: scikit-image's docstrings state theirs
    "astronaut": ("skimage", "data/astronaut.png", _NASA),
    "brick": ("skimage", "data/brick.png", "CC0"),
    "camera": ("skimage", "data/camera.png", "CC0"),
    "cat": ("skimage", "data/chelsea.png", "CC0"),
    "coffee": ("skimage", "data/coffee.png", "CC0"),
    "gravel": ("skimage", "data/gravel.png", "CC0"),
    "hubble": ("skimage", "data/hubble_deep_field.jpg", _NASA),
    "rocket": ("skimage", "data/rocket.jpg", "public domain (SpaceX)"),
    "actor": ("insightface", "data/images/Tom_Hanks_54745.png", _MIT),
    "group": ("insightface", "data/images/t1.jpg", _MIT),
}
_FORMATS = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}

_PEOPLE = {
    "astronaut": "portrait.jpg head.jpg copies/portrait.jpg copies/smaller.jpg",
    "cards": "cards.jpg cards-close.jpg moved.jpg",
    "lace": "lace.jpg",
    "shirt": "shirt.jpg shirt-close.jpg pair.jpg copies/mirrored.jpg",
    "laugh": "laugh.jpg copies/laugh.jpg",
    "standing": "standing.jpg",
    "blonde": "blonde.png",
    "actor": "actor.webp",
}
PERSON = {f"/{path}": person for person, paths in _PEOPLE.items() for path in paths.split()}
"""Who is in a picture: of two people the one whose face is larger."""

Manner = Literal["whole", "drip", "endless"]


@dataclass(frozen=True, slots=True)
class Page:
    """One address of the small web, and its row in the table."""

    path: str
    caption: str
    license: str = ""
    body: bytes = b""
    size_px: tuple[int, int] = (640, 480)
    """Width and height as the table promises them."""
    status: int = 200
    location: str = ""
    manner: Manner = "whole"
    """How the body comes: at once, byte by byte, or without end after a picture's first bytes."""
    listed: bool = True
    """Whether the table names it; if not, only a redirect leads there."""


def pictures() -> dict[str, Path]:
    """Find the photographs, by name, where pip installed them.

    Raises:
        UnreadableSource: A package that carries some is not installed.
    """
    found = {}
    for name, (package, file, _) in _PHOTOGRAPHS.items():
        spec = find_spec(package)
        folders = list(spec.submodule_search_locations or []) if spec else []
        if not folders or not (path := Path(folders[0], file)).is_file():
            raise UnreadableSource(
                f"{package}/{file}",
                f"the package {package} is not installed, or without its pictures",
                "Install them with: pip install 'visage[data]'.",
            )
        found[name] = path
    return found


def pages() -> list[Page]:
    """Make every page: faces to keep, copies to recognise, pictures to reject, and traps."""
    faces = _faces()
    return [*faces, *_copies(faces), *_rejects(), *_traps()]


def _faces() -> list[Page]:
    """Photographs with faces, each different enough to be kept."""
    astronaut, group, actor = _photo("astronaut"), _photo("group"), _photo("actor")
    shown = [
        ("portrait.jpg", astronaut, (60, 0, 460, 400), "Official portrait of a NASA astronaut"),
        ("head.jpg", astronaut, (100, 0, 340, 240), "A smiling woman in a space suit, close up"),
        ("cards.jpg", group, (0, 200, 270, 470), "A woman with long hair looks at her cards"),
        ("cards-close.jpg", group, (15, 225, 225, 435), "Woman looking down, close-up"),
        ("lace.jpg", group, (222, 90, 432, 300), "A dark-haired woman turns her head"),
        ("shirt.jpg", group, (395, 215, 645, 465), "Smiling man in a grey shirt"),
        ("shirt-close.jpg", group, (430, 235, 620, 425), "Face of a smiling man"),
        ("laugh.jpg", group, (655, 280, 905, 530), "A laughing man in a red shirt with a chip"),
        ("standing.jpg", group, (820, 0, 1090, 270), "A young man looks to the side"),
        ("blonde.png", group, (1050, 225, 1280, 455), "A blonde woman smiles with closed eyes"),
        ("actor.webp", actor, (0, 0, 112, 112), "Black and white headshot of an actor"),
        ("pair.jpg", group, (430, 215, 910, 535), "Two men laugh at a poker table"),
    ]
    found = [
        _page(path, _at_least(photo.crop(box)), caption, _NASA if photo is astronaut else _MIT)
        for path, photo, box, caption in shown
    ]
    women = _page(
        "women.jpg", _at_least(group.crop((0, 90, 440, 410))), "Two women at a table", _MIT
    )
    moved = replace(women, path="/moved.jpg", body=b"", status=302, location=women.path)
    return [*found, moved, replace(women, listed=False)]


def _copies(faces: list[Page]) -> list[Page]:
    """The same photographs again: byte by byte, smaller, recompressed, mirrored."""
    page = {face.path: face for face in faces}
    portrait, laugh, shirt = (
        Image.open(BytesIO(page[path].body))
        for path in ("/portrait.jpg", "/laugh.jpg", "/shirt.jpg")
    )
    smaller = portrait.resize((300, 300), Image.Resampling.LANCZOS)
    mirrored = ImageOps.mirror(shirt)
    return [
        replace(page["/portrait.jpg"], path="/copies/portrait.jpg", caption="Astronaut, official"),
        _page("copies/smaller.jpg", smaller, "Astronaut portrait, smaller", _NASA, quality=80),
        _page("copies/laugh.jpg", laugh, "Man laughing at a joke", _MIT, quality=30),
        _page("copies/mirrored.jpg", mirrored, "Man in a grey shirt, smiling", _MIT, quality=60),
    ]


def _rejects() -> list[Page]:
    """Pictures a recipe has reasons to reject."""
    astronaut, group = _photo("astronaut"), _photo("group")
    dark = ImageEnhance.Brightness(_at_least(group.crop((1050, 225, 1280, 455)))).enhance(0.25)
    soft = _at_least(group.crop((0, 200, 270, 470))).filter(ImageFilter.GaussianBlur(4))
    plain = {
        "camera": "A photographer with a camera on a tripod",
        "rocket": "A rocket that engineers put on its launch pad",
        "hubble": "Galaxies as astronomers see them through the Hubble telescope",
        "coffee": "a cup of coffee",
        "cat": "a tabby cat, close up",
        "brick": "old brick wall texture",
        "gravel": "gravel, seamless background",
    }
    thumb = _page("thumb.jpg", astronaut.resize((120, 120)), "Astronaut, thumbnail", _NASA)
    return [
        _page("group.jpg", group, "Six friends, men and women, play poker", _MIT),
        _page("full.jpg", astronaut, "Astronaut in an orange suit before a flag", _NASA),
        _page("dark.jpg", dark, "A woman in a dark room", _MIT),
        _page("soft.jpg", soft, "A woman with cards, out of focus", _MIT),
        _page("icon.jpg", astronaut.resize((48, 48)), "Astronaut, icon", _NASA),
        replace(thumb, size_px=(1200, 1200)),  # the table promises more than there is
        *(_page(f"{name}.jpg", _photo(name), plain[name], _PHOTOGRAPHS[name][2]) for name in plain),
    ]


def _traps() -> list[Page]:
    """What a web full of dead and hostile links holds."""
    whole = pictures()["group"].read_bytes()
    html = b"<!DOCTYPE html><html><body>This woman's photo has moved.</body></html>"
    metadata = "http://169.254.169.254/latest/meta-data/"
    return [
        Page("/truncated.jpg", "A man, half of the file", _MIT, whole[: len(whole) // 2]),
        Page("/page.jpg", "Photo of a woman", body=html),
        Page("/gone.jpg", "Portrait of a man", status=404),
        Page("/broken.jpg", "Portrait of a woman", status=500),
        Page("/empty.jpg", "Photo of a boy"),
        Page("/slow.jpg", "Photo of a girl", manner="drip"),
        Page("/endless.jpg", "Family photo", body=b"\xff\xd8\xff", manner="endless"),
        Page("/bomb.png", "A man, in very high resolution", body=_bomb(13_000), size_px=(800, 800)),
        Page("/metadata.jpg", "Photo of a president", status=302, location=metadata),
        Page("/circle.jpg", "Photo of a dancer", status=302, location="/circle.jpg"),
    ]


ROWS_FROM_ELSEWHERE = [
    Page("file:///etc/passwd", "Photo of a teacher"),
    Page("http://10.0.0.1/x.jpg", "Photo of a nurse"),
]


def _photo(name: str) -> Image.Image:
    return Image.open(pictures()[name]).convert("RGB")


def _at_least(image: Image.Image, side_px: int = 288) -> Image.Image:
    """Enlarge a picture whose shorter side is below ``side_px``."""
    scale = max(1.0, side_px / min(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def _page(path: str, image: Image.Image, caption: str, license: str, quality: int = 92) -> Page:
    out = BytesIO()
    image.save(out, _FORMATS[Path(path).suffix], quality=quality)
    return Page(f"/{path}", caption, license, out.getvalue(), image.size)


def _bomb(side_px: int) -> bytes:
    """Make a PNG of a few kilobytes that unfolds to ``side_px`` squared pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side_px, side_px, 1, 0, 0, 0, 0)  # one bit per pixel
    rows = zlib.compress(bytes((1 + side_px // 8) * side_px), 9)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks
