"""What the report on videos reads of a run: how its rows ended, its shots, what was said of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.storage import Folder
from pipelines.dedupe import read
from pipelines.reports.page import JobSummary, StageSummary
from pipelines.video.clips import CLIP_ROWS
from pipelines.video.clips import CLIPS as CLIP_FILES
from pipelines.video.exported import CLIPS, SHOTS, SHOTS_FILE, WORDS, Clip, clips_of
from stages.models.faces import ModelCard
from stages.video.keep import main_first

_MEASURED = ["id", "video_id", "start_s", "end_s", "num_faces", "member", "url"]
_SAID = ("run", "recipe", "recipe_yaml", "source", "seconds", "finished_at", "code")
_ENDED = ["id", "status", "rejected_by", "error", "error_detail"]


@dataclass(frozen=True, slots=True)
class Decided:
    """How a clip ended, or a video that gave none, whose ``id`` then is that of the video."""

    id: str
    video_id: str
    status: str
    rejected_by: str
    error: str
    error_detail: str
    start_s: float
    end_s: float
    tracks: int
    name: str
    """Of the video: its file, or the end of its URL."""

    @property
    def is_clip(self) -> bool:
        """Whether this is a clip at all."""
        return self.id != self.video_id


@dataclass(frozen=True, slots=True)
class Told:
    """What a run was and what it took."""

    run: str
    recipe: str
    recipe_yaml: str
    source: str
    seconds: float
    finished_at: str
    code: str
    jobs: tuple[JobSummary, ...]
    stages: tuple[StageSummary, ...]
    models: tuple[ModelCard, ...]


def data_of(run: Folder, jobs: Sequence[Mapping[str, Any]]) -> dict[str, Folder]:
    """Return by job where its rows are: perhaps in another run of the store.

    Args:
        run: The run's folder.
        jobs: The records of its jobs.
    """
    store = Folder(run.fs, run.path.rpartition("/")[0])
    return {job["job"]: store / job["data"] for job in jobs}


def read_decided(data: Mapping[str, Folder]) -> list[Decided]:
    """Read how every clip ended, and every video without clips, by id.

    Args:
        data: What ``data_of`` returns.
    """
    # Nested columns, which a join refuses, are not among these.
    rows = read(data["people"], _ENDED).join(read(data["clips"], _MEASURED), "id")
    return [
        Decided(
            **{name: row[name] or "" for name in (*_ENDED, "video_id")},
            start_s=row["start_s"] or 0.0,
            end_s=row["end_s"] or 0.0,
            tracks=row["num_faces"] or 0,
            name=row["member"] or (row["url"] or "").rpartition("/")[2],
        )
        for row in rows.sort_by("id").to_pylist()
    ]


def read_rejected(data: Mapping[str, Folder], ids: Collection[str]) -> tuple[Folder, list[Clip]]:
    """Read some clips that are not exported, by id.

    Returns:
        The folder that the clips' files are below, and the clips; nobody is known in them.
    """
    columns = [name for name in CLIPS.names if name in CLIP_ROWS.names]
    parts = [CLIPS.empty_table()]
    for path in data["clips"].files(".parquet"):
        rows = pq.read_table(
            path, filesystem=data["clips"].fs, columns=columns, partitioning=None,
            filters=pc.is_in(pc.field("id"), pa.array(ids, pa.string())),
        )  # fmt: skip
        parts.append(pa.Table.from_pylist([_nobodys(row) for row in rows.to_pylist()], CLIPS))
    watched = data["watch"]
    return (
        Folder(watched.fs, watched.path.rpartition("/")[0]),
        clips_of(pa.concat_tables(parts).sort_by("id")),
    )


def _nobodys(row: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a clip's row that nobody has been found in, its main track first."""
    tracks = [dict(track) | {"person": ""} for track in main_first(row["tracks"])]
    main = tracks[0]["track_id"] if tracks else None
    words = {name: row.get(name) or "" for name, _ in WORDS}
    place = {"file": f"{CLIP_FILES}/{row['file']}", "main_track": main, "person": ""}
    return {**row, **words, **place, "tracks": tracks}


def read_shots(export: Folder) -> list[dict[str, Any]]:
    """Read the videos that were watched to their end, each with its shots."""
    table: pa.Table = pq.read_table(
        f"{export.path}/{SHOTS_FILE}", filesystem=export.fs, columns=SHOTS.names
    )
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def told_by(about: Mapping[str, Any]) -> Told:
    """Take out of what is known of a run that which the page says."""
    jobs = about["jobs"]
    cards = {card["sha256"]: ModelCard(**card) for job in jobs for card in job["models"]}
    spent = [(name, *rest) for job in jobs for name, rest in job["stage_seconds"].items()]
    return Told(
        **{name: about[name] for name in _SAID},
        jobs=tuple(JobSummary(j["job"], j["rows"], j["seconds"], j["reused"]) for j in jobs),
        stages=tuple(StageSummary(*each) for each in spent),
        models=tuple(cards.values()),
    )
