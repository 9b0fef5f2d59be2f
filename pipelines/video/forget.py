"""Runs over videos after a person was taken out of them: faces to look at, records that agree.

A video goes as a whole, with all of its clips: who else is in it is known by vectors alone, and
none is kept of those who are forgotten.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from infra.errors import UnreadableSource
from infra.storage import Folder
from pipelines.dedupe import read
from pipelines.forgetting.find import recipe_of
from pipelines.forgetting.records import correct_fingerprints, count_people, replace_artifacts
from pipelines.job import JobRecord, Run, counts
from pipelines.people import SUMMARY, home_of
from pipelines.reports.funnel import funnel
from pipelines.video.clips import CLIPS, SPOOL
from pipelines.video.exported import CLIPS_FILE, CLIPS_FOLDER, decoded
from pipelines.video.layouts import write_layouts
from pipelines.video.recipes import VideoRecipe
from pipelines.video.record import describe, record_of, summary, tell
from stages.columns import DECIDED
from stages.video.keep import main_first

_SIDE_PX = 112


def main_faces(store: Folder, path: str, wanted: Collection[str]) -> dict[str, Image.Image]:
    """Return the best look at the main person of some clips, by the clips' ids.

    Args:
        store: Where runs are.
        path: A file of a watch job's rows.
        wanted: Ids of clips; those that are not there, or have no face, are left out.
    """
    clips = Folder(store.fs, path.partition("/data/")[0]) / CLIPS
    rows = pq.read_table(path, filesystem=store.fs, columns=["clips"], partitioning=None)
    faces: dict[str, Image.Image] = {}
    for clip in (clip for each in rows["clips"].to_pylist() for clip in each or ()):
        tracks = main_first(clip["tracks"]) if clip["clip_id"] in wanted else []
        # A sheet is no place to learn that a file is gone.
        with suppress(UnreadableSource):
            for track in tracks[:1]:
                faces[clip["clip_id"]] = _face(clips, clip, track)
    return faces


def _face(clips: Folder, clip: Mapping[str, Any], track: Mapping[str, Any]) -> Image.Image:
    (frame,) = decoded(clips, clip["file"], [track["best_frame"] - clip["start_frame"]])
    left, top, right, bottom = track["boxes_px"][track["frames"].index(track["best_frame"])]
    aside = (right - left) / 4
    box = (left - aside, top - aside, right + aside, bottom + aside)
    return Image.fromarray(frame).crop(tuple(map(round, box))).resize((_SIDE_PX, _SIDE_PX))


def correct_videos(store: Folder, name: str) -> None:
    """Count a run's rows again, and tell of it anew: layouts, records and report."""
    folder = store / name
    recipe = recipe_of(folder)
    assert isinstance(recipe, VideoRecipe)
    correct_fingerprints(store, folder, "watch")
    (folder / "watch" / SPOOL).clear()  # whole videos; an unfinished run fetches them again
    count_people(folder / "people")
    run = Run(store, name)
    jobs = {home.name: _counted(store, home) for home in folder.folders()}
    _write_layouts_anew(folder / "export", recipe, jobs.get("export"))
    finished = folder.read_json("run.json")
    if finished is None:
        if folder.exists("report.html"):  # written again when the run is finished
            folder.fs.delete_file(f"{folder.path}/report.html")
        return
    known = set(JobRecord.__dataclass_fields__)
    for before in finished["jobs"]:
        told = JobRecord(**{key: before[key] for key in known if key in before})
        now = jobs.get(told.job)
        same = ("rows", "keep", "reject", "error")
        run.jobs.append(replace(told, **{key: getattr(now, key) for key in same}) if now else told)
    _tell_again(run, recipe, finished)


def _counted(store: Folder, home: Folder) -> JobRecord | None:
    """Count the rows of a finished job again, and note that."""
    held = home.read_json("job.json")
    if not held or not held["finished_at"] or not (store / held["data"]).exists():
        return None
    ending = f"/{CLIPS_FILE}" if held["job"] == "export" else ".parquet"
    held |= counts(store / held["data"], ending)
    home.write_json("job.json", held)
    return JobRecord(**held)


def _write_layouts_anew(export: Folder, recipe: VideoRecipe, record: JobRecord | None) -> None:
    """Write the layouts from what is left; an export that is not finished is written as a whole."""
    if not export.exists(CLIPS_FILE):
        return
    kept = {CLIPS_FOLDER}
    for folder in export.folders():
        if folder.name not in kept:
            folder.clear()
    for path in export.files():
        if path.endswith((".csv", ".txt", ".jsonl")):
            export.fs.delete_file(path)
    if record is not None:
        write_layouts(export, recipe.layouts)


def _tell_again(run: Run, recipe: VideoRecipe, finished: dict[str, Any]) -> None:
    """Write numbers and report anew, and in its place in the store's own MLflow."""
    decided = record_of(run, "people")
    decisions = read(run.data(decided), DECIDED)
    pairs = run.data(record_of(run, "pairs"))
    numbers = summary(
        run,
        record_of(run, "watch"),
        run.data(record_of(run, "clips")),
        decisions,
        pq.read_table(f"{pairs.path}/part-00000.parquet"),
    )
    people = home_of(run.store, decided).read_json(SUMMARY) or {}
    seconds = finished["seconds"]
    about = describe(run, recipe, numbers, people, funnel(decisions), seconds)
    about["finished_at"] = finished["finished_at"]
    report = tell(run, about)
    replace_artifacts(run.store, finished["mlflow"], {"report.html": report})
    same = {key: getattr(decided, key) for key in ("rows", "keep", "reject", "error")}
    run.folder.write_json("run.json", finished | about | same)
