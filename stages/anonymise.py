"""Make everybody in a picture unrecognisable who is not the one it is kept for.

A face is hidden, and then the very encoder that would recognise it is asked, at the very place: as
long as it is not far enough from the person, the face is hidden more, at last under one colour and
then under noise. One colour hides all that there was, but encoders have a place for it too, and
faces that they can hardly read lie near that place. What is then still not far enough is an error,
never a picture.

Faces that the detector does not see stay as they are, and so does what tells a person beside the
face: clothes, a name on a shirt. Blurred and pixelated faces can be told apart by a network that
was trained on such (McPherson et al., "Defeating image obfuscation with deep learning",
arXiv:1609.00408); ``cover`` leaves nothing to learn from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image

from stages.decode import decode
from stages.landmarks import unflatten
from stages.models.faces import Detections, Detector, Embedder, distance
from stages.types import RGB, Batch

How = Literal["blur", "pixelate", "cover"]
MARGIN = 1.05
"""How far beyond the encoder's own limit for one person a hidden face must be: saving the picture
anew, and another detector's landmarks, move vectors a little."""
GROWN_WIDTH, GROWN_HEIGHT = 1.3, 1.45
"""The ellipse that is hidden, in sides of the box: chin, ears and hairline tell people too."""
_BLURS = (0.10, 0.16, 0.25)  # standard deviation, in widths of the ellipse
_CELLS = (8, 5, 3)  # across the ellipse
_NOISES = range(8)
_MEGAPIXELS = 178.0  # whatever was decoded before
_FULL_PX = 2**20
_QUALITY = 95
_FORMATS = {"image/jpeg": "JPEG", "image/webp": "WEBP"}


class StillRecognised(Exception):
    """A face that is hidden as well as can be is still taken for the person."""

    def __init__(self, face: int, apart: float, wanted: float) -> None:
        self.face, self.apart, self.wanted = face, apart, wanted
        super().__init__(face, apart, wanted)

    def __str__(self) -> str:
        return (
            f"face {self.face}, hidden under noise, is {self.apart:.3f} from what it was, and more "
            f"than {self.wanted:.3f} is wanted"
        )


@dataclass(frozen=True, slots=True)
class Anonymised:
    """A picture in which people were hidden."""

    picture: RGB
    kept: int
    """Index of the face that was left; -1: none was."""
    distances: tuple[float, ...]
    """Of every hidden face from what it was, as the encoder measures; in order of the faces."""


def anonymise(
    picture: RGB,
    detector: Detector,
    embedder: Embedder,
    keep: Float32[np.ndarray, " dim"] | None,
    how: How = "pixelate",
) -> Anonymised:
    """Hide everybody but one person, and look again whether anybody is still there.

    Args:
        picture: At full size.
        detector: What finds faces, here and in what comes out.
        embedder: What must not recognise anybody.
        keep: The vector of the person to leave; None: everybody is hidden.
        how: What hiding begins with.

    Raises:
        StillRecognised: Somebody is, whatever was done.
    """
    found = detector.detect([picture])[0]
    vectors = embedder.embed(embedder.align(picture, found.landmarks_px))
    kept = who_is(keep, vectors, embedder) if keep is not None else -1
    others = [i for i in range(len(vectors)) if i != kept]
    out, apart = hide(picture, found, vectors, others, embedder, how)
    again = detector.detect([out])[0]
    seen = embedder.embed(embedder.align(out, again.landmarks_px))
    back = [
        i
        for i in others
        for box, vector in zip(again.boxes_px, seen, strict=True)
        if _centred(box, found.boxes_px[i]) and not _beyond(vector, vectors[i], embedder)
    ]
    if back:
        out, covered = hide(out, found, vectors, back, embedder, "cover")
        apart |= covered
    return Anonymised(out, kept, tuple(apart[i] for i in others))


def hide(
    picture: RGB,
    found: Detections,
    vectors: Float32[np.ndarray, "faces dim"],
    faces: Sequence[int],
    embedder: Embedder,
    how: How,
) -> tuple[RGB, dict[int, float]]:
    """Return a picture without some of its faces, and how far each is from what it was.

    Args:
        picture: It is left as it is.
        found: Where its faces are.
        vectors: Who they are.
        faces: Indices of those to hide.
        embedder: What measured ``vectors``.
        how: What hiding begins with; it grows stronger until the encoder is far enough off.

    Raises:
        StillRecognised: It is not, even under noise.
    """
    out, apart = picture.copy(), dict[int, float]()
    wanted = MARGIN * embedder.same_person_below
    for face in faces:
        where = _ellipse(found.boxes_px[face], *picture.shape[:2])
        for change in _changes(how):
            _apply(out, where, change)
            chip = embedder.align(out, found.landmarks_px[face : face + 1])
            now = embedder.embed(chip)[0]
            apart[face] = float(distance(now, vectors[face], embedder.metric))
            if apart[face] > wanted:
                break
        else:
            raise StillRecognised(face, apart[face], wanted)
    return out, apart


def who_is(
    person: Float32[np.ndarray, " dim"],
    vectors: Float32[np.ndarray, "faces dim"],
    embedder: Embedder,
) -> int:
    """Return the index of the face that is most like a person; -1: none is like them."""
    if not len(vectors):
        return -1
    apart = distance(vectors, np.broadcast_to(person, vectors.shape), embedder.metric)
    return int(apart.argmin()) if apart.min() < embedder.same_person_below else -1


class Anonymise:
    """Hide everybody in a picture but its main face, in the file itself.

    The file is saved anew, upright and without metadata, which may hold a thumbnail of how it was;
    rows with one face or none keep theirs byte for byte. The vectors of who was hidden become zero.

    Args:
        make_embedder: Called once, in the worker; the same that made the vectors.
        how: What hiding begins with.
    """

    reads = ("blob", "mime", "bytes_len", "face_boxes_px", "face_landmarks_px", "face_embeddings")
    writes = ("blob", "mime", "bytes_len", "face_embeddings", "error", "error_detail")

    def __init__(self, make_embedder: Callable[[], Embedder], how: How = "pixelate") -> None:
        self.embedder, self.how = make_embedder(), how

    def __call__(self, batch: Batch) -> Batch:
        """Hide who is beside the main face of every picture."""
        rows = zip(*(batch[name] for name in self.reads), strict=True)
        done = [self._row(dict(zip(self.reads, row, strict=True))) for row in rows]
        return {name: [row[name] for row in done] for name in self.writes}

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        row |= {"error": "", "error_detail": ""}
        vectors = np.array(row["face_embeddings"], dtype=np.float32)
        if len(vectors) < 2:
            return row
        boxes = np.array(row["face_boxes_px"], dtype=np.float32)
        points = unflatten(row["face_landmarks_px"])
        found = Detections(boxes, np.zeros(len(boxes), np.float32), points)
        picture = decode(bytes(row["blob"]), _MEGAPIXELS, _FULL_PX).pixels
        others = range(1, len(vectors))
        try:
            hidden, _ = hide(picture, found, vectors, others, self.embedder, self.how)
        except StillRecognised as problem:
            # Nothing of the file may go on: it shows who should not be shown.
            nobody = {"blob": b"", "bytes_len": 0, "face_embeddings": np.zeros_like(vectors)}
            return row | nobody | {"error": "not_anonymised", "error_detail": str(problem)}
        vectors[1:] = 0
        kind = _FORMATS.get(row["mime"], "PNG")
        out = BytesIO()
        Image.fromarray(hidden).save(out, kind, quality=_QUALITY)
        blob = out.getvalue()
        return row | {
            "blob": blob, "mime": f"image/{kind.lower()}", "bytes_len": len(blob),
            "face_embeddings": vectors,
        }  # fmt: skip


def _changes(how: How) -> list[tuple[str, float]]:
    """Return what is tried, weakest first."""
    steps = {"blur": _BLURS, "pixelate": _CELLS, "cover": ()}[how]
    noises = (("noise", float(seed)) for seed in _NOISES)
    return [*((how, float(step)) for step in steps), ("cover", 0.0), *noises]


def _apply(
    picture: RGB, where: Bool[np.ndarray, "height width"], change: tuple[str, float]
) -> None:
    """Hide what is inside an ellipse, in place."""
    how, strength = change
    rows, columns = np.nonzero(where)
    if not len(rows):
        return
    part = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    inside, region = where[part], picture[part]
    height, width = inside.shape
    if how == "blur":
        blurred = cv2.GaussianBlur(region, (0, 0), strength * width)
        region[inside] = blurred[inside]
    elif how == "pixelate":
        cells = int(strength), max(1, round(strength * height / width))
        small = cv2.resize(region, cells, interpolation=cv2.INTER_AREA)
        large = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
        region[inside] = large[inside]
    elif how == "cover":
        region[inside] = region[inside].mean(axis=0).round().astype(np.uint8)
    else:
        rng = np.random.default_rng(int(strength))
        region[inside] = rng.integers(0, 256, (int(inside.sum()), 3), dtype=np.uint8)


def _ellipse(
    box_px: Float32[np.ndarray, "4"], height_px: int, width_px: int
) -> Bool[np.ndarray, "height width"]:
    left, top, right, bottom = (float(side) for side in box_px)
    sides = GROWN_WIDTH * (right - left), GROWN_HEIGHT * (bottom - top)
    where = np.zeros((height_px, width_px), np.uint8)
    cv2.ellipse(where, (((left + right) / 2, (top + bottom) / 2), sides, 0.0), 1, -1)
    return where.astype(bool)


def _centred(box_px: Float32[np.ndarray, "4"], within_px: Float32[np.ndarray, "4"]) -> bool:
    middle = (box_px[:2] + box_px[2:]) / 2
    return bool((middle >= within_px[:2]).all() and (middle <= within_px[2:]).all())


def _beyond(
    a: Float32[np.ndarray, " dim"], b: Float32[np.ndarray, " dim"], embedder: Embedder
) -> bool:
    return float(distance(a, b, embedder.metric)) > MARGIN * embedder.same_person_below
