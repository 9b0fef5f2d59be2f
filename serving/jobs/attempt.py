"""One attempt at one job, from wherever the one before it has come."""

import asyncio
import logging
import threading
import time
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from serving.database import asked
from serving.errors import RETRYABLE, Refusal
from serving.guard import Guard
from serving.jobs.files import Files, place
from serving.jobs.leases import Leases, Lost
from serving.jobs.records import Job
from serving.jobs.settings import VideoSettings
from serving.keys import ANYBODY
from serving.mp4 import write_mp4
from serving.people.records import decoded
from serving.people.tables import unpacked
from serving.provenance.credentials import Made
from serving.provenance.stamp import Provenance, Stamp
from serving.types import Reference
from serving.videos import Frames, State, VideoDraw, Videos

logger = logging.getLogger(__name__)

NOTE_S = 0.5
"""How often at most it is written how far a job is. A cancelled one goes on no longer than that,
and the step that is being drawn."""
_LONGEST_WAIT_S = 600.0
_PREVIEW_QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class Studio:
    """What an attempt needs."""

    leases: Leases
    files: Files
    videos: Videos
    guard: Guard
    provenance: Provenance
    settings: VideoSettings


class Attempt:
    """One attempt."""

    def __init__(self, studio: Studio, job: Job, stopping: threading.Event) -> None:
        """Begin nothing yet.

        Args:
            studio: What is needed.
            job: As it was claimed.
            stopping: When set, the job is given back at its next step.
        """
        self._studio, self._job, self._stopping = studio, job, stopping
        self._leases, self._files = studio.leases, studio.files
        self._key = replace(ANYBODY, id=job.owner)
        self._noted = self._saved = time.monotonic()
        self._given: Stamp | None = None

    async def carry_out(self) -> None:
        """Bring the job to its end, or give it back.

        Raises:
            Lost: It is not this attempt's any more.
            Refusal: ``records_unavailable``: nothing can be written, so its lease will end.
        """
        job = self._job
        try:
            ask = await self._ask()
            ref = await asyncio.to_thread(self._files.adopt, job)
            ref = ref or await self._drawn(ask)
            if ref:
                # First, so that nothing is left if we die between the two.
                await asyncio.to_thread(self._files.tidy, job, ref)
                await asked(partial(self._leases.complete, job, ref))
        except Lost:
            raise
        except Refusal as no:
            if no.code == "records_unavailable":
                raise
            if no.code in RETRYABLE:
                wait_s = min(no.retry_after_s * 2.0**job.fence, _LONGEST_WAIT_S)
                await asked(partial(self._leases.release, job, wait_s))
                return
            await self._fail(no.code, no.message)
        except Exception:
            logger.exception("%s failed", job.id)
            await self._fail("internal", "Something went wrong here; the log has it.")

    async def _fail(self, code: str, message: str) -> None:
        await asyncio.to_thread(self._files.tidy, self._job)
        await asked(partial(self._leases.fail, self._job, code, message))

    async def _ask(self) -> VideoDraw:
        """Return what to draw; whether the person may still be drawn is asked anew."""
        job, reference = self._job, None
        fields = dict(job.asked)
        fields.pop("fps", None)
        model, ours = fields.pop("model"), self._studio.videos.info.model
        if model != ours:
            raise Refusal("unknown_model", f"{model} is not served any more, {ours} is.")
        if job.person:
            guard = self._studio.guard
            reference = await guard.reference([job.person], self._key, job.request_id)
        elif job.vector is not None:
            faces = (decoded(job.face),) if job.face is not None else ()
            vector = unpacked(job.vector)
            reference = Reference(vector=vector, embedder=job.embedder, faces=faces)
        return VideoDraw(request_id=job.request_id, reference=reference, **fields)

    async def _drawn(self, ask: VideoDraw) -> str:
        """Draw; return the name of the video, or nothing if the job was given back."""
        videos = self._studio.videos
        state = await asyncio.to_thread(self._files.load, self._job)
        if state is None:
            state = await asyncio.to_thread(videos.begin, ask)
        while state.next_step < ask.steps:
            if self._stopping.is_set():
                await self._checkpoint(ask, state)
                await asked(partial(self._leases.release, self._job))
                return ""
            state = await asyncio.to_thread(videos.step, ask, state)
            await self._note(ask, state)
        frames = await asyncio.to_thread(videos.frames, ask, state)
        await self._studio.guard.drawn(tuple(frames), self._key, self._job.request_id)
        stamp = await asked(partial(self._stamp, ask))
        # Not to be sure, which the fence is for, but to spare the work.
        await asked(partial(self._leases.check, self._job))
        return await asyncio.to_thread(self._written, frames, stamp)

    async def _note(self, ask: VideoDraw, state: State) -> None:
        now = time.monotonic()
        if now - self._saved >= self._studio.settings.checkpoint_s:
            await self._checkpoint(ask, state)
        elif now - self._noted >= NOTE_S:
            self._noted = now
            self._job = await asked(partial(self._leases.note, self._job, state.next_step))

    async def _checkpoint(self, ask: VideoDraw, state: State) -> None:
        ref = await asyncio.to_thread(self._files.save, self._job, state)
        self._job = await asked(partial(self._leases.note, self._job, state.next_step, ref))
        await asyncio.to_thread(self._files.tidy, self._job, ref)
        if self._studio.settings.previews and not await self._studio.guard.holds_back():
            await self._preview(ask, state)
        self._saved = self._noted = time.monotonic()

    async def _preview(self, ask: VideoDraw, state: State) -> None:
        """Show how far it is, marked and signed as the video will be."""
        stamp = await asked(partial(self._stamp, ask))

        def show() -> None:
            drawn = self._studio.videos.preview(ask, state)
            self._files.show(self._job, stamp.finish(drawn, "jpeg", _PREVIEW_QUALITY))

        try:
            await asyncio.to_thread(show)
        except (Refusal, FileNotFoundError) as problem:
            # Nobody signs now; or the job has just been cancelled, as the next step will find.
            logger.info("%s is not shown: %s", self._job.id, problem)

    def _stamp(self, ask: VideoDraw) -> Stamp:
        """Return the one stamp of the attempt: its previews and its video carry the same mark."""
        if self._given is None:
            made = Made(model=self._studio.videos.info.model, request_id=ask.request_id)
            self._given = self._studio.provenance.stamp(
                self._job.owner, made, ask.width_px, ask.height_px
            )
        return self._given

    def _written(self, frames: Frames, stamp: Stamp) -> str:
        """Write the video, marked and signed; from when it has its name on, it is the result."""
        drawn = self._files.begin(self._job)
        signed = drawn.with_name(f".signed-{self._job.fence}.mp4")
        marked = np.stack([stamp.mark(frame) for frame in frames])
        write_mp4(marked, drawn, self._studio.videos.info.fps)
        self._studio.provenance.sign_file(drawn, signed, stamp.made)
        name = self._files.result(self._job)
        place(signed, self._files.path(self._job, name))
        return name
