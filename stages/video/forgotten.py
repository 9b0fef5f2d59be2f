"""Videos of people who asked to be forgotten, known again by a clip."""

from pathlib import Path

from stages.forgotten import tombstone
from stages.types import Batch


class DropForgottenVideos:
    """Reject a video of which a clip was forgotten, by whatever name it comes, and keep no clip.

    A clip is known again by its bytes, which the same frames and settings give again. All of its
    video goes: which of the other clips show the person only their vector could tell, and none is
    kept of people who asked to be forgotten.

    Args:
        folder: Where clips are.
        files: Tombstones of files' sha256.
    """

    reads = ("clips", "shots", "caption", "label", "rejected_by")
    writes = reads

    def __init__(self, folder: Path, files: frozenset[str]) -> None:
        self.folder, self.files = folder, files

    def __call__(self, batch: Batch) -> Batch:
        """Ask every clip of every video of ``batch``."""
        out = {name: list(batch[name]) for name in self.writes}
        for row, clips in enumerate(batch["clips"]):
            if not any(tombstone(clip["sha256"]) in self.files for clip in clips or ()):
                continue
            for clip in clips:
                (self.folder / clip["file"]).unlink(missing_ok=True)
            blank = {
                "clips": [],
                "shots": [],
                "caption": "",
                "label": "",
                "rejected_by": "forgotten",
            }
            for name, value in blank.items():
                out[name][row] = value
        return out
