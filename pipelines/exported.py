"""The Parquet files of a finished export, for those who go on from it."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import UnreadableSource
from infra.storage import Folder, open_folder

_NAME_IT = "Name a run of `visage curate`."
_ANEW = (
    "Delete export and run.json of that run, then curate it again: the same command goes on from "
    "its pictures."
)


def export_files(corpus: str, column: str = "") -> tuple[Folder, list[str]]:
    """Find the files of a corpus; none where the run kept no picture.

    Args:
        corpus: Folder of a curation run, or its export folder, or the Parquet files' own.
        column: One that the rows must have.

    Raises:
        UnreadableSource: Nothing was exported there, or not to the end, or a file is damaged or
            lacks the column.
    """
    if not corpus:
        raise UnreadableSource("", "no corpus is given", _NAME_IT)
    home = open_folder(corpus)
    above = Folder(home.fs, home.path.rpartition("/")[0])
    places = [home / "export/parquet", home / "parquet", home]
    for folder in (home / "export", home, above):
        record = folder.read_json("job.json")
        if not record or record.get("job") != "export":
            continue
        if not record["finished_at"]:
            why, cure = "its export is not finished", "Give the command that curates it once more."
            raise UnreadableSource(corpus, why, cure)
        # A run may have found the same export done by another of its store.
        places.append(above / record["data"] / "parquet")
    for folder in places:
        files = [path for path in folder.files(".parquet") if "/part-" in path]
        if files and folder.path == files[0].rpartition("/")[0]:
            for path in files:
                _check(home, path, column)
            return home, files
    if finished := home.read_json("run.json"):
        if finished["keep"]:
            cure = "Curate it with parquet among --export.formats."
            raise UnreadableSource(corpus, "it was exported in other formats", cure)
        return home, []
    raise UnreadableSource(corpus, "no exported corpus is there", _NAME_IT)


def caption_of(row: Mapping[str, Any]) -> str:
    """Return what is said of an exported picture: the caption that was made, or the page's."""
    made = row.get("caption_merged")
    return str((row["caption"] if made is None else made) or "")


def _check(home: Folder, path: str, column: str) -> None:
    """Refuse a file that is damaged or of an older version."""
    try:
        names = pq.read_schema(path, filesystem=home.fs).names
    except pa.ArrowInvalid:
        raise UnreadableSource(path, "it is cut short or no Parquet file", _ANEW) from None
    if column and column not in names:
        raise UnreadableSource(path, f"its rows have no {column}", _ANEW)
