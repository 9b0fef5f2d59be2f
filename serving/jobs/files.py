"""What lies on disk of video jobs: one folder each, with checkpoints and at last the video.

Every file is written beside its place, brought to the disk and renamed, so that a file that has its
name is whole; and every name holds the attempt that wrote it, so that an older attempt, which may
not know yet that it is one, overwrites nothing.

    <folder>/video_.../step-<attempt>-<steps done>.safetensors
    <folder>/video_.../preview-<attempt>.jpg
    <folder>/video_.../result-<attempt>.mp4
"""

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from infra.errors import BadValue
from serving.jobs.records import Job
from serving.videos import State

logger = logging.getLogger(__name__)

VIDEO_ID = re.compile(r"video_[0-9a-f]{24}")
_FENCED = re.compile(r"\.?(?:step|result|drawn|signed|preview)-(\d+)\b")
_STRAY_S = 3600.0
"""Age at which a folder that belongs to no job is nobody's who has just begun."""


class Files:
    """The folder of all jobs."""

    def __init__(self, folder: str | Path) -> None:
        """Touch nothing yet."""
        self._folder = Path(folder).expanduser()

    def make(self) -> None:
        """Make the folder, which only its owner may enter.

        Raises:
            BadValue: It cannot be made.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._folder.chmod(0o700)
        except OSError as error:
            cure = f"it cannot be written ({error})."
            raise BadValue("videos.folder", str(self._folder), cure) from None

    def path(self, job: Job, ref: str) -> Path:
        """Return where a file of a job lies."""
        return self._folder / job.id / ref

    def begin(self, job: Job) -> Path:
        """Return where an attempt may write its video first; a name that nobody reads."""
        self.path(job, "").mkdir(exist_ok=True)
        return self.path(job, f".drawn-{job.fence}.mp4")

    def save(self, job: Job, state: State) -> str:
        """Write a checkpoint; return its name."""
        self.path(job, "").mkdir(exist_ok=True)
        name = f"step-{job.fence}-{state.next_step}.safetensors"
        said = {"fingerprint": job.fingerprint, "next_step": state.next_step}
        blob = save(dict(state.arrays), metadata={"visage": json.dumps(said)})
        beside = self.path(job, f".{name}")
        beside.write_bytes(blob)
        place(beside, self.path(job, name))
        return name

    def load(self, job: Job) -> State | None:
        """Read the checkpoint that the row names; None: there is none to go on from."""
        if not job.checkpoint_ref:
            return None
        path = self.path(job, job.checkpoint_ref)
        try:
            with safe_open(path, "np") as file:
                said = json.loads((file.metadata() or {})["visage"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            logger.warning("%s starts again: its checkpoint cannot be read: %s", job.id, error)
            return None
        if said != {"fingerprint": job.fingerprint, "next_step": job.next_step}:
            logger.warning("%s starts again: its checkpoint is of another drawing", job.id)
            return None
        return State(next_step=job.next_step, arrays=arrays)

    def show(self, job: Job, blob: bytes) -> None:
        """Write how an attempt's video looks by now, in place of how it looked before."""
        name = f"preview-{job.fence}.jpg"
        beside = self.path(job, f".{name}")
        beside.write_bytes(blob)
        place(beside, self.path(job, name))

    def shown(self, job: Job) -> bytes | None:
        """Return how the video looks by now, a JPEG; None: it is not shown."""
        try:
            return self.path(job, f"preview-{job.fence}.jpg").read_bytes()
        except FileNotFoundError:
            return None

    def result(self, job: Job) -> str:
        """Return the name of the video that an attempt has, or will have."""
        return f"result-{job.fence}.mp4"

    def adopt(self, job: Job) -> str:
        """Take over the whole video of an earlier attempt, which died before it could say so.

        It is renamed, so the earlier attempt, should it still be alive, finds nothing to take away.

        Returns:
            Its name; empty: there is none.
        """
        for fence in range(job.fence):
            found = self.path(job, self.result(replace(job, fence=fence)))
            try:
                found.replace(self.path(job, self.result(job)))
            except FileNotFoundError:
                continue
            return self.result(job)
        return ""

    def tidy(self, job: Job, *keep: str) -> None:
        """Remove what this attempt and those before it have left; ``keep``: what counts still."""
        self._remove(job, range(job.fence + 1), keep)

    def disown(self, job: Job) -> None:
        """Remove what an attempt has written that was overtaken."""
        self._remove(job, [job.fence], ())
        with suppress(OSError):  # the files of others are in it
            self.path(job, "").rmdir()

    def forget(self, job: str) -> None:
        """Remove all of a job."""
        shutil.rmtree(self._folder / job, ignore_errors=True)

    def strays(self, known: Collection[str]) -> list[str]:
        """Name the folders that belong to no job and are not of just now."""
        old = time.time() - _STRAY_S
        if not self._folder.is_dir():
            return []
        return [
            entry.name
            for entry in os.scandir(self._folder)
            if VIDEO_ID.fullmatch(entry.name)
            and entry.name not in known
            and entry.stat().st_mtime < old
        ]

    def _remove(self, job: Job, fences: Collection[int], keep: Collection[str]) -> None:
        for path in self.path(job, "").glob("*"):
            found = _FENCED.match(path.name)
            if found and int(found[1]) in fences and path.name not in keep:
                path.unlink(missing_ok=True)


def place(beside: Path, target: Path) -> None:
    """Give a file its name once all of it is on the disk."""
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(target)
