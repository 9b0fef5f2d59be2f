"""Faces in photographs that are sent: found, measured, compared, as the curation stages do it.

The very stages of a curation run over one photograph, so the same file gives the same vector.
dlib, torch and onnxruntime let go of the interpreter while they work: threads are enough.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Float32

from serving.errors import Refusal
from serving.recipes import FaceSettings
from serving.types import RGB, Reference
from serving.uploads import inspect, picture, refused
from stages.anonymise import Anonymised, How, StillRecognised, anonymise
from stages.decode import Decode
from stages.faces import AlignFaces, DetectFaces, EmbedFaces
from stages.models.backend import load_detector, load_embedder
from stages.models.faces import distance
from stages.types import Batch, Stage

T = TypeVar("T")

WAITING_PER_WORKER = 4
"""Photographs that may wait for each one that is measured; beyond that clients come back later."""
LEAST_WAITING = 16
BYSTANDERS_PX = 1600
"""At least the longest side at which faces are looked for that are to be hidden: small ones too."""
RIVAL_SIDE = 0.5
"""A second face with at least this share of the largest one's side makes a photograph unclear."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Face:
    """One face, in pixels of the upright photograph."""

    box_px: tuple[float, ...]
    """Left, top, right, bottom."""
    landmarks_px: tuple[tuple[float, float], ...]
    score: float
    area_share: float
    """Of the photograph."""
    vector: Float32[np.ndarray, " dim"] | None = None
    """Raw, if it was asked for."""

    @property
    def side_px(self) -> float:
        """The shorter side of the box."""
        left, top, right, bottom = self.box_px
        return min(right - left, bottom - top)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A photograph, and its faces, largest first."""

    width_px: int
    height_px: int
    faces: tuple[Face, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether two photographs show one person."""

    distance: float
    threshold: float
    same_person: bool
    embedder: str
    metric: Literal["l2", "cosine"]


class Faces:
    """Measures photographs, several at once; ready and warm when constructed.

    All methods take the bytes of files and raise ``Refusal``: ``unsupported_media_type``,
    ``unreadable_image``, ``animated_image``, ``too_many_pixels``, or ``overloaded`` when too many
    photographs wait already.
    """

    def __init__(self, settings: FaceSettings, max_pixels: int = 25_000_000) -> None:
        """Load the models.

        Raises:
            BadInput: A setting cannot work, or the weights cannot be had.
        """
        self._settings, self._max_pixels = settings, max_pixels
        self._embedder = load_embedder(settings.backend, settings.pack, "cpu")
        self.embedder, self.metric = self._embedder.card.tag, self._embedder.metric
        """The encoder's tag, as every row of a corpus has it, and how its vectors compare."""
        self.threshold = self._embedder.same_person_below
        workers = settings.at_once or os.cpu_count() or 1
        self._most = workers + max(LEAST_WAITING, WAITING_PER_WORKER * workers)
        self._busy = 0
        self._mine = threading.local()
        self._decode = Decode(max_pixels / 1e6)
        self._align = AlignFaces(lambda: self._embedder)
        self._embed = EmbedFaces(lambda: self._embedder)
        self._pool = ThreadPoolExecutor(workers, "faces", initializer=_one_thread)
        # Every thread, or the first requests would pay for what the others load.
        together = threading.Barrier(workers)
        for done in [self._pool.submit(self._warm, together) for _ in range(workers)]:
            done.result()
        self.detector = self._detect.detector.card.tag

    @property
    def busy(self) -> int:
        """Photographs that are measured or wait."""
        return self._busy

    async def detect(self, photo: bytes) -> Seen:
        """Find the faces of a photograph."""
        return await self._run(lambda: _seen(self._found(photo)))

    async def embed(self, photo: bytes) -> Seen:
        """Find the faces of a photograph and measure each."""
        return await self._run(lambda: _seen(self._measured(self._found(photo))))

    async def verify(self, a: bytes, b: bytes) -> Verdict:
        """Compare the main faces of two photographs.

        Raises:
            Refusal: Also ``no_face`` or ``several_faces``.
        """
        first, second = await self._mains([a, b])
        apart = float(distance(first[0], second[0], self.metric))
        return Verdict(
            distance=apart,
            threshold=self.threshold,
            same_person=apart < self.threshold,
            embedder=self.embedder,
            metric=self.metric,
        )

    async def reference(self, photos: Sequence[bytes]) -> Reference:
        """Measure one person from one or more photographs.

        Raises:
            Refusal: Also ``no_face``, ``several_faces``; ``different_people`` when a photograph
                agrees with no more than half of the others.
        """
        mains = await self._mains(photos)
        vectors = np.stack([vector for vector, _ in mains])
        self._one_person(vectors)
        return Reference(
            vector=vectors.mean(axis=0),
            embedder=self.embedder,
            faces=tuple(chip for _, chip in mains),
        )

    async def anonymise(self, photo: bytes, keep: Reference | None, how: How) -> Anonymised:
        """Hide everybody in a photograph but one person, at its full size.

        Raises:
            Refusal: Also ``not_anonymised``.
        """
        return await self._run(lambda: self._hidden(photo, keep, how))

    def close(self) -> None:
        """Finish what is being measured and end the threads."""
        self._pool.shutdown(cancel_futures=True)

    async def _mains(self, photos: Sequence[bytes]) -> list[tuple[Any, RGB]]:
        tasks = [
            asyncio.ensure_future(self._run(partial(self._main, photo, i)))
            for i, photo in enumerate(photos)
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _run(self, work: Callable[[], T]) -> T:
        if self._busy >= self._most:
            words = "Too many photographs wait to be measured; ask again."
            raise Refusal("overloaded", words, retry_after_s=1)
        self._busy += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._busy -= 1

    @property
    def _detect(self) -> DetectFaces:
        return self._detects(self._settings.detect_px)

    def _detects(self, px: int) -> DetectFaces:
        """Return this thread's own detector: dlib's keeps the picture that it works on."""
        if not hasattr(self._mine, "by_px"):
            self._mine.by_px = {}
        mine: dict[int, DetectFaces] = self._mine.by_px
        if px not in mine:
            asked = self._settings
            # Past the cache, which would hand every thread the same one.
            mine[px] = DetectFaces(
                lambda: load_detector.__wrapped__(
                    asked.backend, asked.pack, px, asked.min_score, "cpu"
                )
            )
        return mine[px]

    def _hidden(self, photo: bytes, keep: Reference | None, how: How) -> Anonymised:
        detector = self._detects(max(self._settings.detect_px, BYSTANDERS_PX)).detector
        vector = keep.vector if keep else None
        try:
            pixels = picture(photo, self._max_pixels)
            return anonymise(pixels, detector, self._embedder, vector, how)
        except StillRecognised as problem:
            raise Refusal("not_anonymised", f"Nothing can be sent back: {problem}.") from None

    def _found(self, photo: bytes) -> dict[str, Any]:
        inspect(photo, self._max_pixels)
        row = _add(self._decode, {"blob": [photo]})
        if row["error"][0]:
            raise refused(row["error"][0], row["error_detail"][0])
        return _add(self._detect, row)

    def _measured(self, row: dict[str, Any]) -> dict[str, Any]:
        if not row["num_faces"][0]:
            return row
        return _add(self._embed, _add(self._align, row))

    def _main(self, photo: bytes, index: int) -> tuple[Any, RGB]:
        """Return vector and crop of the one face that a photograph is clearly of."""
        row = self._found(photo)
        faces = _seen(row).faces
        if not faces:
            words = "shows no face; send one that looks towards the camera, 80 px wide or more"
            raise Refusal("no_face", f"Photograph {index} {words}.", {"photo": index})
        rivals = [face for face in faces[1:] if face.side_px >= RIVAL_SIDE * faces[0].side_px]
        if rivals:
            words = f"shows {1 + len(rivals)} faces of like size; cut out the one that is meant"
            details = {"photo": index, "faces": 1 + len(rivals)}
            raise Refusal("several_faces", f"Photograph {index} {words}.", details)
        row["face_landmarks_px"] = [row["face_landmarks_px"][0][:1]]
        row = self._measured(row)
        return row["face_embeddings"][0][0], row["face_chips"][0][0]

    def _one_person(self, vectors: Float32[np.ndarray, "photos dim"]) -> None:
        """See that every photograph agrees with more than half of the others.

        Not with all: one pair in a hundred of the same person is beyond the threshold, and eight
        photographs are 28 pairs.
        """
        agree = np.zeros(len(vectors), dtype=int)
        for a, b in combinations(range(len(vectors)), 2):
            if distance(vectors[a], vectors[b], self.metric) < self.threshold:
                agree[[a, b]] += 1
        others = [i for i, count in enumerate(agree) if 2 * count <= len(vectors) - 1]
        if len(vectors) > 1 and others:
            words = "do not show one person; send photographs of the same one"
            raise Refusal("different_people", f"The photographs {words}.", {"photos": others})

    def _warm(self, together: threading.Barrier) -> None:
        together.wait()
        blank = np.full((160, 160, 3), 127, dtype=np.uint8)
        self._detect.detector.detect([blank])
        points = np.array([[[110, 60], [95, 60], [50, 60], [65, 60], [80, 90]]], dtype=np.float32)
        self._embedder.embed(self._embedder.align(blank, points))


def _one_thread() -> None:
    """Let every photograph have one core: the pool is what runs side by side."""
    import torch  # two seconds, and deployment recipes import nothing of it

    torch.set_num_threads(1)


def _add(stage: Stage, row: Batch) -> dict[str, Any]:
    return {**row, **stage(row)}


def _seen(row: dict[str, Any]) -> Seen:
    vectors = row["face_embeddings"][0] if "face_embeddings" in row else None
    columns = ("face_boxes_px", "face_landmarks_px", "face_scores", "face_area_shares")
    found = zip(*(row[name][0] for name in columns), strict=True)
    faces = tuple(
        Face(
            box_px=tuple(box),
            landmarks_px=tuple(zip(points[::2], points[1::2], strict=True)),
            score=score,
            area_share=share,
            vector=None if vectors is None else vectors[i],
        )
        for i, (box, points, score, share) in enumerate(found)
    )
    return Seen(width_px=row["width_px"][0], height_px=row["height_px"][0], faces=faces)
