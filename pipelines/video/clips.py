"""From videos to clips: one row per clip, and one per video that gave none, so that none is lost.

Rows are told apart by new ids, from the video's id and the frames of the clip. So this is a job of
its own: within one, a crash would leave a video with some of its clips for ever.
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.storage import Folder
from pipelines.video.exported import MEASURES, SHOTS
from stages.columns import DECISIONS, schema
from stages.models.faces import ModelCard
from stages.video import rows

CLIPS, SPOOL = "clips", "spool"
"""Folders beside the rows of the watch job: the clips' files, and while it works fetched videos."""
ROWS_PER_PART = 2048
"""Clips per file, about: each has its tracks, some tens of kilobytes."""
_OF_THE_VIDEO = [
    "url", "source", "source_row", "member", "label", "license", "caption", "rejected_by", "error",
    "error_detail", "dup_of", "dup_kind",
]  # fmt: skip
_OF_THE_CLIP = [*(name for name, _ in MEASURES), "tracks"]
CLIP_ROWS = pa.schema(
    [
        *schema([*DECISIONS, "caption"]),
        pa.field("video_id", pa.string()),
        *(pa.field(name, kind) for name, kind in MEASURES),
        pa.field("detector", pa.string()),
        pa.field("embedder", pa.string()),
        pa.field("tracks", pa.list_(rows.TRACK)),
    ]
)
"""What is known of a clip before it is judged; of a video without clips all measures are null."""


def fan_out(watched: Folder, target: Folder, cards: Sequence[ModelCard]) -> None:
    """Write the clips of all videos, a row each.

    Args:
        watched: A row per video.
        target: Gets the rows of ``CLIP_ROWS``.
        cards: The detector and the embedder that looked.
    """
    target.clear()  # quick to write again
    target.make()
    tags = [card.tag for card in cards]
    held: list[pa.Table] = []
    number = 0
    for path in watched.files(".parquet"):
        table = pq.read_table(path, filesystem=watched.fs, partitioning=None)
        held += [table_of_clips(table, *tags), videos_without(table)]
        if sum(part.num_rows for part in held) >= ROWS_PER_PART:
            _write(target, number, held)
            held, number = [], number + 1
    if held or number == 0:
        _write(target, number, held)


def table_of_clips(watched: pa.Table, detector: str, embedder: str) -> pa.Table:
    """Return a row per clip, with where its video is from."""
    clips = watched["clips"].combine_chunks()
    parents = watched.take(pc.list_parent_indices(clips))
    flat = clips.flatten()
    columns = {name: parents[name] for name in _OF_THE_VIDEO}
    columns |= {name: pc.struct_field(flat, name) for name in _OF_THE_CLIP}
    columns |= {"id": pc.struct_field(flat, "clip_id"), "video_id": parents["id"]}
    columns["num_faces"] = pc.list_value_length(columns["tracks"])
    same = {"detector": detector, "embedder": embedder, "status": "keep"}
    columns |= {name: pa.array([value] * len(flat), pa.string()) for name, value in same.items()}
    return pa.table({name: columns[name] for name in CLIP_ROWS.names}).cast(CLIP_ROWS)


def videos_without(watched: pa.Table) -> pa.Table:
    """Return a row per video that gave no clip, with the reason."""
    counts = pc.fill_null(pc.list_value_length(watched["clips"]), 0)
    left = watched.filter(pc.equal(counts, 0))
    columns = {name: left[name] for name in _OF_THE_VIDEO}
    wrong = pc.not_equal(left["error"], "")
    silent = pc.and_(pc.invert(wrong), pc.equal(left["rejected_by"], ""))
    columns["rejected_by"] = pc.if_else(silent, "no_clip", left["rejected_by"])
    columns |= {"id": left["id"], "video_id": left["id"]}
    columns["status"] = pc.if_else(wrong, "error", "reject")
    for name in CLIP_ROWS.names:
        kind = CLIP_ROWS.field(name).type
        columns.setdefault(name, pa.nulls(left.num_rows, kind))
    return pa.table({name: columns[name] for name in CLIP_ROWS.names}).cast(CLIP_ROWS)


def shots_of(watched: Folder) -> pa.Table:
    """Return the shots of every video that was watched to its end, by id."""
    parts = list(_shots(watched)) or [SHOTS.empty_table()]
    return pa.concat_tables(parts).sort_by("video_id").combine_chunks()


def _shots(watched: Folder) -> Iterator[pa.Table]:
    facts = [name for name in SHOTS.names if name not in ("video_id", "shots")]
    for path in watched.files(".parquet"):
        table = pq.read_table(
            path, filesystem=watched.fs, columns=["id", "video", "shots"], partitioning=None
        )
        table = table.filter(pc.is_valid(table["video"]))
        columns = {name: pc.struct_field(table["video"], name) for name in facts}
        columns |= {"video_id": table["id"], "shots": table["shots"]}
        yield pa.table({name: columns[name] for name in SHOTS.names}).cast(SHOTS)


def _write(target: Folder, number: int, parts: Sequence[pa.Table]) -> None:
    table = pa.concat_tables([*parts, CLIP_ROWS.empty_table()]).combine_chunks()
    target.write_table(f"part-{number:05d}.parquet", table)
