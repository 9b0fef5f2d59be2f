"""Write finished video exports in the layouts that other projects' trainers read.

``consisid/`` is ConsisID's data set, see ``pipelines/video/consisid.py``; ``videos.csv`` is the
table that trainers of CogVideoX and of AnimateDiff, hence ID-Animator, read. Neither copies a clip.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from infra.errors import BadValue
from infra.storage import Folder, open_folder
from pipelines.video.exported import Clip, read_clips

CSV_FILE, CONSISID_FOLDER = "videos.csv", "consisid"
COLUMNS = ("path", "text", "attributes", "action", "person", "videoid", "name", "page_dir")


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutSettings:
    """Which layouts are written, and how faces are masked in them."""

    formats: tuple[Literal["consisid", "csv"], ...] = ("consisid", "csv")
    """ConsisID's data set; a table for CogVideoX and AnimateDiff."""
    masks: Literal["ellipse", "sam2"] = "ellipse"
    """An ellipse laid on the landmarks needs no weights; SAM 2 follows the true outline."""
    sam2: str = ""
    """sam2: `file:<folder>` with a Sam2VideoModel in safetensors."""
    device: Literal["cpu", "cuda"] = "cpu"
    """sam2: where it runs."""

    def __post_init__(self) -> None:
        if self.masks == "sam2" and not self.sam2:
            cure = "name a folder with a Sam2VideoModel, as file:<folder>."
            raise BadValue("layouts.sam2", self.sam2, cure)


def write_layouts(export: Folder | Path, settings: LayoutSettings, at_once: int = 0) -> None:
    """Write the layouts that the settings name into a finished export.

    What an earlier try has finished is left as it is.

    Args:
        export: Holds ``clips.parquet`` and ``clips/``.
        settings: Layouts and masks.
        at_once: Clips in flight on the Ray cluster; 0: one after the other, here.

    Raises:
        UnreadableSource: There is no finished export of videos, or it is damaged.
        BadWeights: There is no SAM 2 where the settings say.
    """
    home = open_folder(str(export)) if isinstance(export, Path) else export
    clips = read_clips(home)
    if "consisid" in settings.formats:
        # Masks need OpenCV and SAM 2 torch: recipes, which hold these settings, need neither.
        from pipelines.video.consisid import write_consisid

        write_consisid(home, clips, settings, at_once)
    if "csv" in settings.formats:
        home.write(CSV_FILE, _table(clips))


def _table(clips: Sequence[Clip]) -> str:
    """Return one CSV row per clip.

    ``path`` (below the export) and ``text`` are the columns that CogVideoX's trainers are given by
    name; ``videoid`` (the file in ``clips/``, without its ending), ``name`` and ``page_dir`` are
    those that AnimateDiff's WebVid reader wants. A clip without a caption has a blank for it: an
    empty field comes out of pandas as a number, which no tokenizer takes.

    References:
        a-r-r-o-w/cogvideox-factory, training/dataset.py (``_load_dataset_from_csv``);
        guoyww/AnimateDiff, animatediff/data/dataset.py (``WebVid10M``); ID-Animator
        (arXiv:2404.15275), whose trainer was not released, builds on the latter.
    """
    table = io.StringIO()
    written = csv.writer(table)
    written.writerow(COLUMNS)
    for clip in clips:
        text = clip.caption or " "
        decoupled = (clip.caption_attributes, clip.caption_action)
        written.writerow([clip.file, text, *decoupled, clip.person, clip.id, text, ""])
    return table.getvalue()
