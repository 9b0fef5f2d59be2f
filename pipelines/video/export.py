"""Write the kept clips for others: their files, and tables of clips, pairs and shots."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.storage import Folder
from pipelines.video.exported import (
    CLIPS,
    CLIPS_FILE,
    CLIPS_FOLDER,
    PAIRS,
    PAIRS_FILE,
    SHOTS_FILE,
    WORDS,
    clips_of,
)
from pipelines.video.layouts import LayoutSettings, write_layouts
from pipelines.video.pairs import pair_clips
from pipelines.video.recipes import VideoPairSettings
from stages.video.keep import main_first


def assemble(judged: Folder, decisions: pa.Table, faces: pa.Table, told: pa.Table) -> pa.Table:
    """Put together all that is known of the kept clips, by id.

    They are in memory together, with their tracks: some tens of kilobytes each.

    Args:
        judged: Clips with their measures and tracks.
        decisions: All clips, with ``id`` and ``status``.
        faces: Who their faces are: id, face, identity; of each clip the main track's face is 0, and
            the other tracks' follow in their order.
        told: Captions that were made: id, and some of ``WORDS``.
    """
    kept = decisions.filter(pc.equal(decisions["status"], "keep"))["id"].combine_chunks()
    people = _by_clip(faces)
    words = {row["id"]: row for row in told.to_pylist()}
    parts = [CLIPS.empty_table()]
    for path in judged.files(".parquet"):
        rows = pq.read_table(path, filesystem=judged.fs, partitioning=None)
        rows = rows.filter(pc.is_in(rows["id"], value_set=kept))
        done = [
            _assembled(row, people.get(row["id"], {}), words.get(row["id"], {}))
            for row in rows.to_pylist()
        ]
        parts.append(pa.Table.from_pylist(done, schema=CLIPS))
    return pa.concat_tables(parts).sort_by("id").combine_chunks()


def _by_clip(faces: pa.Table) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for row in faces.select(["id", "face", "identity"]).to_pylist():
        found.setdefault(row["id"], {})[row["face"]] = row["identity"]
    return found


def _assembled(
    row: Mapping[str, Any], people: Mapping[int, str], words: Mapping[str, Any]
) -> dict[str, Any]:
    """Give a clip's tracks their people, and the clip its captions and the place of its file."""
    whose = {
        t["track_id"]: people.get(face, "") for face, t in enumerate(main_first(row["tracks"]))
    }
    tracks = [track | {"person": whose[track["track_id"]]} for track in row["tracks"]]
    said = {name: words.get(name) or row.get(name) or "" for name, _ in WORDS}
    main = row["main_track"]
    place = {"file": f"{CLIPS_FOLDER}/{row['file']}", "person": whose.get(main, "")}
    return {**row, **said, **place, "tracks": tracks}


def pairs_of(clips: pa.Table, settings: VideoPairSettings) -> pa.Table:
    """Pair clips, rows of ``CLIPS``; return rows of ``PAIRS``."""
    pairs = pair_clips(clips_of(clips), settings)
    return pa.Table.from_pylist([asdict(pair) for pair in pairs], schema=PAIRS)


def export(
    target: Folder,
    files: Folder,
    clips: pa.Table,
    pairs: pa.Table,
    shots: pa.Table,
    layouts: LayoutSettings,
    at_once: int = 0,
) -> None:
    """Write clips, tables and layouts; a clip is a second name of its file where a disk allows it.

    Args:
        target: The export's folder.
        files: Where the clips are.
        clips: Rows of ``CLIPS``.
        pairs: Rows of ``PAIRS``.
        shots: Rows of ``SHOTS``.
        layouts: Which layouts of other projects are written too.
        at_once: Clips in flight on the Ray cluster, for them; 0: one after the other, here.
    """
    (target / CLIPS_FOLDER).make()
    for name in clips["file"].to_pylist():
        _link(Path(files.path, Path(name).name), Path(target.path, name))
    target.write_table(PAIRS_FILE, pairs)
    target.write_table(SHOTS_FILE, shots)
    target.write_table(CLIPS_FILE, clips)
    write_layouts(target, layouts, at_once)


def _link(source: Path, place: Path) -> None:
    if place.exists():
        return
    try:
        place.hardlink_to(source)
    except OSError:  # another disk, or one that knows no links
        beside = place.with_suffix(".part")
        shutil.copyfile(source, beside)
        beside.replace(place)
