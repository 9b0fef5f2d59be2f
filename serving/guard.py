"""What stands around drawing: who may be drawn, and who must not come out of it.

In: the reference's consent is looked up if it is an enrolled person, and its vectors are compared
with the protected people's. Out: every face of every picture is measured and compared before any
of them leaves, and of a streamed answer the previews are held back until then: they show what the
picture will, and an unfinished face may escape a detector and not an eye. Where nobody is
protected, that costs nothing. Every use and every refusal is in the audit log.

What the detector does not find is not compared: dlib sees faces from about 80 px, in a picture that
was brought to ``faces.detect_px``, and hardly any in profile.
"""

import asyncio
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image
from sqlalchemy import Engine

from serving.audit import Audit, Event
from serving.database import asked
from serving.errors import Refusal
from serving.faces import Faces
from serving.keys import Key
from serving.people.enrol import Enrolment
from serving.people.protected import Protected, bound
from serving.people.records import People
from serving.people.search import Search
from serving.recipes import ServeRecipe
from serving.types import RGB, Reference

_AGAIN_S = 0.1


class Guard:
    """Looks at references and at what was drawn."""

    def __init__(self, recipe: ServeRecipe, faces: Faces, engine: Engine) -> None:
        """Open the lists.

        Raises:
            BadValue, BadWeights: See ``Enrolment``.
        """
        self._faces = faces
        self.audit = Audit(engine)
        self.people = People(engine)
        self.protected = Protected(engine)
        self.search = Search(engine, faces.embedder, faces.metric)
        self.enrolment = Enrolment(recipe, faces)
        self.below = bound(recipe.faces.backend, recipe.people.protect_below).below
        """Cosine distance to a protected person at which a face is refused."""

    async def reference(
        self, identity: Sequence[bytes | str], key: Key, request_id: str = ""
    ) -> Reference:
        """Return whom to draw.

        Args:
            identity: Files of photographs, or one enrolled person's id.
            key: Who asks.
            request_id: For the audit log.

        Raises:
            Refusal: ``unknown_person``, ``consent_expired``, ``protected_person``,
                ``invalid_value`` for a mixture, or as ``Faces.reference`` does.
        """
        photos = [one for one in identity if isinstance(one, bytes)]
        if len(photos) == len(identity):
            reference = await self._faces.reference(photos)
            vectors = await asyncio.to_thread(self.enrolment.vectors, reference.faces)
            subject = ""
        elif len(identity) == 1:
            subject = str(identity[0])
            reference, vectors = await self._enrolled(subject, key, request_id)
        else:
            words = "identity: give photographs, or the id of one enrolled person."
            raise Refusal("invalid_value", words, {"field": "identity"})
        words = "The reference resembles a protected person, whom nobody may draw here."
        await self.check(vectors, reference.embedder, "reference", words, key, request_id)
        await self.log("used", key, request_id, subject=subject, photos=len(vectors))
        return reference

    async def holds_back(self) -> bool:
        """Say whether previews must wait until the picture has been looked at."""
        return not await asked(lambda: self.protected.empty(self._faces.embedder))

    async def drawn(self, pictures: Sequence[RGB], key: Key, request_id: str = "") -> None:
        """Look at what was drawn before any of it leaves.

        Raises:
            Refusal: ``protected_person``: nothing of it may leave.
        """
        if not await self.holds_back():
            return
        faces = [face for one in pictures for face in await self._measured(one)]
        if faces:
            words = "What was drawn resembles a protected person, and is withheld."
            vectors = np.stack(faces)
            await self.check(vectors, self._faces.embedder, "result", words, key, request_id)

    async def check(
        self,
        vectors: np.ndarray,
        embedder: str,
        where: str,
        words: str,
        key: Key,
        request_id: str,
    ) -> None:
        """Refuse faces that resemble a protected person.

        Args:
            vectors: Raw, one row per face.
            embedder: What measured them.
            where: ``reference``, ``result`` or ``enrolment``, for the audit log.
            words: What the client is told; never who it is.
            key: Who asks.
            request_id: For the audit log.

        Raises:
            Refusal: ``protected_person`` or ``protection_unavailable``.
        """
        entry = await asked(lambda: self.protected.resembled(vectors, embedder, self.below))
        if entry:
            no = Refusal("protected_person", words)
            await self.refused(no, key, request_id, subject=entry, where=where)
            raise no

    async def refused(
        self, no: Refusal, key: Key, request_id: str, *, subject: str = "", where: str
    ) -> None:
        """Write a refusal to the audit log: its code and where it arose."""
        await self.log("refused", key, request_id, subject=subject, code=no.code, where=where)

    async def log(
        self, event: Event, key: Key, request_id: str, *, subject: str = "", **details: str | int
    ) -> None:
        """Write to the audit log.

        Raises:
            Refusal: ``records_unavailable``: what cannot be recorded is not done.
        """
        await asked(
            lambda: self.audit.log(
                event, key_id=key.id, subject=subject, request_id=request_id, details=details
            )
        )

    async def _enrolled(
        self, identity: str, key: Key, request_id: str
    ) -> tuple[Reference, np.ndarray]:
        try:
            seen = await asked(lambda: self.people.use(identity, key.id))
        except Refusal as no:
            if no.code != "records_unavailable":
                await self.refused(no, key, request_id, subject=identity, where="reference")
            raise
        vector = seen.vectors.mean(axis=0)
        return Reference(vector=vector, embedder=seen.embedder, faces=seen.crops), seen.vectors

    async def _measured(self, picture: RGB) -> list[np.ndarray]:
        """Return the vectors of all faces, waiting for a place: the drawing is done already."""
        blob = await asyncio.to_thread(_as_file, picture)
        while True:
            try:
                seen = await self._faces.embed(blob)
            except Refusal as no:
                if no.code != "overloaded":
                    raise
                await asyncio.sleep(_AGAIN_S)  # as long as the request may take
            else:
                return [face.vector for face in seen.faces if face.vector is not None]


def _as_file(picture: RGB) -> bytes:
    """Return a picture as what ``Faces`` takes, at little cost: a PNG that is not compressed."""
    out = BytesIO()
    Image.fromarray(picture).save(out, "PNG", compress_level=0)
    return out.getvalue()
