"""A caption for every kept clip: what the main person looks like, what happens, and both in one."""

from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray.data import Dataset

from infra.configuration import digest
from infra.errors import BadValue
from infra.storage import Folder
from pipelines.apply import apply
from pipelines.caption import VERDICTS, undecided
from pipelines.captions.hands import captioner, cards, matcher, pool, write_captions
from pipelines.dedupe import read
from pipelines.job import Run
from pipelines.progress import Reporter
from pipelines.recipes import Workers
from stages.captions.clips import CaptionClips, measure
from stages.captions.settings import CaptionSettings
from stages.captions.stage import CAPTIONED

_CLIPS_PER_FILE = 16
"""Clips that are written at a time, and at most lost to a crash."""
_WORDS = {
    "caption_merged": "caption",
    "caption_attributes": "caption_attributes",
    "caption_action": "caption_action",
}
_CLIP = pa.struct(
    [
        ("path", pa.string()), ("frames", pa.int32()), ("best_frame", pa.int32()),
        ("width_px", pa.int32()), ("height_px", pa.int32()), ("seconds", pa.float64()),
        ("people", pa.int32()), ("face_share", pa.float64()), ("yaw_deg", pa.float64()),
        ("pitch_deg", pa.float64()), ("roll_deg", pa.float64()), ("turn_deg", pa.float64()),
        ("camera_motion", pa.float64()), ("person_motion", pa.float64()),
    ]
)  # fmt: skip
"""What captions need of a clip; see ``stages.captions.clips.measure``."""
_KEPT = pa.schema([("id", pa.string()), ("label", pa.string()), ("caption", pa.string()),
                   ("clip", _CLIP)])  # fmt: skip


class Captioned(Protocol):
    """What captions need of a recipe."""

    @property
    def captions(self) -> CaptionSettings:
        """Who writes captions, and what is asked of them."""
        ...

    @property
    def workers(self) -> Workers:
        """How many hands."""
        ...


def caption_clips(
    run: Run, recipe: Captioned, clips: pa.Table, clips_folder: Folder, reporter: Reporter
) -> pa.Table:
    """Caption clips as the job ``caption`` of a run, exactly once; nothing is asked twice.

    Args:
        run: Whose job it is; what it has done so far decides whether it is done again.
        recipe: Who writes captions, and with how many hands.
        clips: The kept clips: id, label, caption (the page's text), width_px, height_px, fps,
            frames, start_frame, camera_motion, person_motion, tracks and, where it is known,
            main_track.
        clips_folder: Where their files ``<id>.mp4`` are; a folder that all machines see.
        reporter: Shows the progress.

    Returns:
        A row per clip, by id: id, caption, caption_attributes, caption_action, rejected_by, error,
        error_detail. With the backend ``none`` captions stay as they came, and there is no job.

    Raises:
        EndpointDown: The caption server is; what it had answered is kept.
        BadValue: The backend sees no clips, or they lie where no file can be opened.
        BadInput: A model cannot be loaded.
    """
    settings = recipe.captions
    if settings.backend == "none":
        return _as_they_came(clips)
    if settings.backend == "vllm":
        cure = "serve the model with `vllm serve`, and ask it with captions.backend http."
        raise BadValue("captions.backend", settings.backend, cure)
    if settings.sees and not clips_folder.is_local:
        raise BadValue("store", str(clips_folder), "clips are looked at in a folder: give one.")
    record = run.do(
        "caption",
        lambda target: _caption(
            clips, clips_folder, settings, recipe.workers, target, run.folder / "caption", reporter
        ),
        settings={"captions": settings},
        inputs=[digest(clips["id"].to_pylist()), *(job.output for job in run.jobs)],
        models=cards(settings),
    )
    told = read(run.data(record), ["id", *_WORDS, *VERDICTS]).sort_by("id")
    return told.rename_columns([_WORDS.get(name, name) for name in told.column_names])


def _caption(
    clips: pa.Table,
    clips_folder: Folder,
    settings: CaptionSettings,
    workers: Workers,
    target: Folder,
    about: Folder,
    reporter: Reporter,
) -> None:
    """Write the captions of clips, and whether they are good enough."""
    (about / "kept").clear()
    rows = [_light(row, clips_folder) for row in clips.to_pylist()]
    kept = pa.Table.from_pylist(rows, schema=_KEPT)
    (about / "kept").write_table("part-00000.parquet", undecided(kept))
    workers = replace(workers, block_rows=max(workers.block_rows, _CLIPS_PER_FILE))
    write_captions(
        about,
        target,
        settings,
        workers,
        reporter,
        light=partial(CaptionClips, settings),
        columns=[*_KEPT.names, *VERDICTS],
        build=partial(_captioned, settings=settings, workers=workers, about=about),
        at_once=max(int(ray.cluster_resources().get("CPU", 1)), 1),
    )


def _light(row: dict[str, Any], clips_folder: Folder) -> dict[str, Any]:
    """Return all that captions need of a clip's row, without its tracks."""
    path = f"{clips_folder.path}/{row['id']}.mp4"
    said = {"label": row.get("label") or "", "caption": row.get("caption") or ""}
    return {"id": row["id"], **said, "clip": measure(row) | {"path": path}}


def _captioned(
    rows: Dataset, settings: CaptionSettings, workers: Workers, about: Folder
) -> Dataset:
    """Append captions and verdicts to clips that a model is shown; leave out all but them."""
    done = apply(
        rows,
        partial(CaptionClips, settings, captioner(settings, about), matcher(settings)),
        pool=pool(settings, workers, rows=1),
    )
    return done.select_columns(["id", *CAPTIONED, *VERDICTS, "status", "timings"])


def _as_they_came(clips: pa.Table) -> pa.Table:
    """Return the texts that came with clips, as if they had been written for them."""
    blank = pa.array([""] * clips.num_rows, pa.string())
    words = {"id": clips["id"], "caption": clips["caption"].fill_null("")}
    more = ("caption_attributes", "caption_action", *VERDICTS)
    return pa.table(words | dict.fromkeys(more, blank)).sort_by("id")
