"""Turn the bytes of a picture into upright pixels, trusting nothing the file says."""

import warnings
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from infra.errors import BadValue
from stages.types import Batch

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

_MIMES = {name: f"image/{name.lower()}" for name in FORMATS}
_MIMES["MPO"] = "image/jpeg"  # a phone's JPEG with a second picture behind the first
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*")
_PILLOW_MEGAPIXELS = 178  # beyond twice Image.MAX_IMAGE_PIXELS Pillow itself opens nothing
_DETAIL_CHARS = 60
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadPicture(Exception):
    """Bytes that cannot be shown: ``error`` is one of ``ERRORS``, ``detail`` the values."""

    def __init__(self, error: str, detail: str) -> None:
        self.error, self.detail = error, detail
        super().__init__(error, detail)

    def __str__(self) -> str:
        return f"{self.error}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Picture:
    """An upright picture, and how large it is in full."""

    pixels: UInt8[np.ndarray, "height width 3"]
    width_px: int
    height_px: int
    mime: str


def decode(blob: bytes, max_megapixels: float = 64.0, work_px: int = 1600) -> Picture:
    """Decode the first frame of ``blob``: upright, over white, reduced to ``work_px``.

    The header is read first: a picture that promises more pixels than allowed is never decoded.
    JPEG is decoded straight to a half, a quarter or an eighth where that is enough.

    Args:
        blob: A whole file.
        max_megapixels: The largest picture that is decoded.
        work_px: The long side of ``pixels`` at most; a smaller picture stays as it is.

    Raises:
        BadPicture: The bytes are of no allowed format, are damaged, or promise too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's views on odd files; the outcome says enough
            return _decode(blob, max_megapixels, work_px)
    except BadPicture:
        raise
    except Image.DecompressionBombError as problem:
        raise BadPicture("too_many_pixels", str(problem)) from None
    except Exception as problem:  # a hostile file makes a decoder raise anything at all
        raise BadPicture("broken_image", str(problem) or type(problem).__name__) from problem


def _decode(blob: bytes, max_megapixels: float, work_px: int) -> Picture:
    image = _open(blob)
    mime = _MIMES[image.format or ""]
    width_px, height_px = image.size
    if width_px * height_px > max_megapixels * 1e6:
        raise BadPicture(
            "too_many_pixels",
            f"{width_px} x {height_px} pixels, {max_megapixels:g} megapixels allowed",
        )
    scale = min(1.0, work_px / max(width_px, height_px))
    size = (max(1, round(width_px * scale)), max(1, round(height_px * scale)))
    image.draft(None, size)  # JPEG only; never smaller than ``size``
    image.load()
    orientation = _orientation(image)
    rgb = _rgb(image, size)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    if orientation >= 5:
        width_px, height_px = height_px, width_px
    return Picture(np.array(rgb), width_px, height_px, mime)


def _open(blob: bytes) -> Image.Image:
    """Read the header."""
    try:
        return Image.open(BytesIO(blob), formats=FORMATS)
    except UnidentifiedImageError:
        webp = blob[:4] == b"RIFF" and blob[8:12] == b"WEBP"
        if webp or blob.startswith(_SIGNATURES):
            raise BadPicture("broken_image", "the header is damaged") from None
        head = (
            blob[:_DETAIL_CHARS]
            .decode("ascii", "replace")
            .replace("\N{REPLACEMENT CHARACTER}", ".")
        )
        raise BadPicture("not_an_image", f"the file begins with {head!r}") from None


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation; a TIFF turns itself upright and has none left."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF does not spoil a good picture
        return 1


def _rgb(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bring any mode to 8-bit RGB over white, averaged down to ``size``."""
    if image.mode[0] in "IF":
        image = _8bit(image)
    if not image.has_transparency_data:
        image = image.convert("RGB")
        return image if image.size == size else image.resize(size, Image.Resampling.BOX)
    image = image.convert("RGBA")
    if image.size != size:
        image = image.resize(size, Image.Resampling.BOX)  # weighs colours by their alpha
    white = Image.new("RGBA", size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _8bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and float greys to 0 to 255, by the range their values use."""
    grey = np.nan_to_num(np.asarray(image, dtype=np.float32))
    peak = float(grey.max())
    if image.mode.startswith("I;16"):
        white = 65535.0
    else:
        white = next((top for top in (1.0, 255.0, 65535.0) if peak <= top), peak)
    return Image.fromarray((grey * (255 / white)).clip(0, 255).round().astype(np.uint8))


class Decode:
    """Turn ``blob`` into ``pixels`` and the facts of the picture, or say why not.

    Args:
        max_megapixels: The largest picture that is decoded, at most 178.
        work_px: The long side of ``pixels`` at most; ``width_px`` and ``height_px`` stay those of
            the full picture.
    """

    reads = ("blob",)
    writes = ("pixels", "width_px", "height_px", "mime", "bytes_len", "error", "error_detail")

    def __init__(self, max_megapixels: float = 64.0, work_px: int = 1600) -> None:
        if not 0 < max_megapixels <= _PILLOW_MEGAPIXELS:
            raise BadValue(
                "max_megapixels", max_megapixels, f"give more than 0, up to {_PILLOW_MEGAPIXELS}."
            )
        self.max_megapixels, self.work_px = max_megapixels, work_px

    def __call__(self, batch: Batch) -> Batch:
        """Decode every picture in ``batch``."""
        rows = [self._row(bytes(blob)) for blob in batch["blob"]]
        return {name: [row[name] for row in rows] for name in self.writes}

    def _row(self, blob: bytes) -> dict[str, object]:
        row: dict[str, object] = dict.fromkeys(self.writes)
        row |= {"bytes_len": len(blob), "error": "", "error_detail": ""}
        try:
            picture = decode(blob, self.max_megapixels, self.work_px)
        except BadPicture as problem:
            return row | {"error": problem.error, "error_detail": problem.detail}
        return row | {name: getattr(picture, name) for name in Picture.__slots__}
