"""From photographs to what is kept of a person: one face each, one person, good enough, alive."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from infra.errors import BadValue
from serving.errors import Refusal
from serving.faces import Face, Faces
from serving.people.records import Measured
from serving.recipes import ServeRecipe
from serving.types import RGB, Reference
from serving.uploads import picture
from stages.models.backend import load_embedder
from stages.models.faces import SCHEMES
from stages.models.liveness import InsightLiveness, Judgement, Liveness
from stages.sharpness import laplacian_variance


class Enrolment:
    """Measures and judges the photographs of one person; keeps none of them."""

    def __init__(self, recipe: ServeRecipe, faces: Faces) -> None:
        """Load what is needed beside the face models.

        Raises:
            BadValue: The liveness check needs other landmarks than the backend finds.
            BadWeights: Its weights cannot be read.
        """
        self._settings, self._faces = recipe.people, faces
        self._max_pixels = recipe.http.max_pixels
        # From the cache: the very one that measures photographs.
        self._embedder = load_embedder(recipe.faces.backend, recipe.faces.pack, "cpu")
        self.liveness: Liveness | None = None
        if recipe.people.liveness:
            path = Path(recipe.people.liveness.removeprefix("file:")).expanduser()
            self.liveness = InsightLiveness(path)
            if SCHEMES[recipe.faces.backend] != self.liveness.scheme:
                cure = "its landmarks show no mouth; measure with --faces.backend insightface."
                raise BadValue("people.liveness", recipe.people.liveness, cure)

    async def measure(self, photos: Sequence[bytes]) -> Measured:
        """Measure a person.

        Args:
            photos: Files.

        Raises:
            Refusal: ``liveness_unavailable``, ``no_face``, ``several_faces``,
                ``different_people``, ``poor_photo``, ``not_live``, or as ``Faces`` does.
        """
        if self._settings.require_liveness and self.liveness is None:
            words = "Here nobody is enrolled without a liveness check, and there is none."
            cure = "whoever runs this server must give its weights (people.liveness)"
            raise Refusal("liveness_unavailable", f"{words[:-1]}: {cure}.")
        reference = await self._faces.reference(photos)
        # Again, for what ``reference`` does not tell: enrolling is rare.
        mains = [(await self._faces.detect(photo)).faces[0] for photo in photos]
        seen = await asyncio.to_thread(self._judged, mains, reference)
        for index, (photo, face) in enumerate(zip(photos, mains, strict=True)):
            await asyncio.to_thread(self._check_alive, photo, face, index)
        return Measured(
            vectors=seen,
            embedder=reference.embedder,
            crops=reference.faces if self._settings.crops else (),
            liveness="absent" if self.liveness is None else "passed",
        )

    def vectors(self, crops: Sequence[RGB]) -> np.ndarray:
        """Measure aligned faces one by one, where ``Faces.reference`` gives their mean."""
        return self._embedder.embed(np.stack(crops))

    def _judged(self, mains: Sequence[Face], reference: Reference) -> np.ndarray:
        """See that every face is large and sharp enough; return their vectors."""
        least = self._settings
        sharpness = laplacian_variance(np.stack(reference.faces))
        for index, (face, sharp) in enumerate(zip(mains, sharpness, strict=True)):
            if face.side_px < least.min_face_px:
                cure = "send one that was taken from nearer, or a larger one"
                raise _poor(index, "small", face.side_px, least.min_face_px, cure)
            if sharp < least.min_sharpness:
                cure = "send one that is in focus, and in which nothing moved"
                raise _poor(index, "blurred", float(sharp), least.min_sharpness, cure)
        return self.vectors(reference.faces)

    def _check_alive(self, photo: bytes, face: Face, index: int) -> None:
        if self.liveness is None:
            return
        points = np.asarray(face.landmarks_px, dtype=np.float32)
        told: Judgement = self.liveness.judge(picture(photo, self._max_pixels), points)
        if told.live is None:
            words = "shows too little around the face to see whether it lives; step back"
            details = {"photo": index, "why": "cut"}
            raise Refusal("poor_photo", f"Photograph {index} {words}.", details)
        if not told.live:
            words = "looks like a picture of a picture, not like a living person"
            details = {"photo": index, "score": round(told.score, 3)}
            raise Refusal("not_live", f"Photograph {index} {words}.", details)


def _poor(index: int, why: str, value: float, needed: float, cure: str) -> Refusal:
    unit = {"small": f"the face is {value:.0f} px wide", "blurred": f"sharpness {value:.1f}"}[why]
    words = f"Photograph {index} is too {why}: {unit}, {needed:g} is needed; {cure}."
    details = {"photo": index, "why": why, "value": round(value, 1), "needed": needed}
    return Refusal("poor_photo", words, details)
