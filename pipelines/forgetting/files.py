"""Take rows out of every kind of file that a store holds.

Each function leaves its file alone where nothing in it is to go, and may be called again after a
crash at any point.
"""

import io
import json
import tarfile
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.numpy import save

from infra.storage import Folder
from stages.forgotten import forgotten_row, tombstone

PERSON = "person"
"""The column that names people where rows have no id: of features' index, and of scores."""
_PICTURES = ("image_file", "face_file", "insightface_feature_file")


class Gone:
    """What is to go, in the forms in which files hold it.

    Args:
        ids: Of rows.
        files: Their pictures' sha256.
        urls: Where they were.
        people: Labels and identities that no other row has.
    """

    def __init__(
        self,
        ids: Collection[str],
        files: Collection[str],
        urls: Collection[str],
        people: Collection[str] = (),
    ) -> None:
        self.ids = frozenset(ids)
        self.texts = self.ids | frozenset(files) | frozenset(urls)
        # One URL may be the beginning of another's, so they are not looked for in bytes.
        self.needles = tuple(sorted(text.encode() for text in self.ids | frozenset(files)))
        self._values = pa.array(sorted(self.texts), pa.string())
        # A label may be a common word, so it is looked for in columns of people alone.
        self._people = pa.array(sorted(self.texts | frozenset(people)), pa.string())

    def among(self, column: pa.ChunkedArray, name: str = "") -> Any:  # noqa: ANN401
        """Say which texts of a column are to go."""
        values = self._people if name == PERSON else self._values
        return pc.fill_null(pc.is_in(column, value_set=values), fill_value=False)

    def within(self, data: bytes) -> bool:
        """Say whether any of it is in some bytes."""
        return any(needle in data for needle in self.needles)


def scrub(folder: Folder, path: str, gone: Gone) -> None:
    """Take rows out of one file, or delete it where all of it goes."""
    name = PurePosixPath(path).name
    if name.partition(".")[0] in gone.ids or name.endswith((".tmp", ".part")):
        folder.fs.delete_file(path)  # a row's own file; what a crash left half written
    elif name.endswith(".parquet"):
        _parquet(folder, path, gone)
    elif name.endswith(".tar"):
        _tar(folder, path, gone)
    elif name.endswith(".jsonl"):
        _lines(folder, path, gone)
    elif name.endswith(".safetensors"):
        _safetensors(folder, path, gone)


def _name(folder: Folder, path: str) -> str:
    return path.removeprefix(f"{folder.path}/")


def _parquet(folder: Folder, path: str, gone: Gone) -> None:
    """Blank the rows of jobs that account for every row, and drop those of most other tables."""
    try:
        file = pq.ParquetFile(folder.fs.open_input_file(path))
    except pa.ArrowInvalid:
        folder.fs.delete_file(path)
        return
    columns = file.schema_arrow
    texts = [field.name for field in columns if pa.types.is_string(field.type)]
    if not texts:
        return
    light = file.read(columns=texts)
    masks = [gone.among(light[name], name) for name in texts]
    hit = np.logical_or.reduce([np.asarray(mask, dtype=bool) for mask in masks])
    if not hit.any():
        return
    rows = file.read()
    if "rejected_by" in columns.names:
        blanks = [
            forgotten_row(row, columns.names, texts)
            for row in rows.filter(pa.array(hit)).to_pylist()
        ]
        blank = pa.Table.from_pylist(blanks, schema=columns)
        place = np.arange(rows.num_rows)
        place[hit] = rows.num_rows + np.arange(len(blanks))
        rows = pa.concat_tables([rows, blank]).take(pa.array(place))
    elif "/checkpoint/" in path:
        # Notes of which rows are written. These are, blank, by the id that a seed gives them now.
        noted = [tombstone(id_) if id_ in gone.ids else id_ for id_ in rows["id"].to_pylist()]
        rows = rows.set_column(columns.get_field_index("id"), "id", pa.array(noted))
    else:
        rows = rows.filter(pa.array(~hit))
    folder.write_table(_name(folder, path), rows.combine_chunks())


def _tar(folder: Folder, path: str, gone: Gone) -> None:
    """Drop the samples of WebDataset that go; the others keep their bytes."""
    data = folder.read(_name(folder, path))
    packed = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as before:
        members = before.getmembers()
        stay = [m for m in members if m.name.partition(".")[0] not in gone.ids]
        if len(stay) == len(members):
            return
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as after:
            for member in stay:
                after.addfile(member, before.extractfile(member))
    folder.write(_name(folder, path), packed.getvalue())


def _lines(folder: Folder, path: str, gone: Gone) -> None:
    """Drop lines that name what goes; first the files of rows that are themselves to go."""
    lines = folder.read(_name(folder, path)).splitlines(keepends=True)
    read = [json.loads(line) for line in lines]
    named = [held for held in read if gone.texts & {v for v in held.values() if type(v) is str}]
    if not named:
        return
    for held in named:
        if held.get("id") not in gone.ids:
            continue
        # Lines of captions/part-*.jsonl name files as those of captions.jsonl above it do.
        homes = (PurePosixPath(path).parent, PurePosixPath(path).parent.parent)
        for file in (f"{home}/{held[key]}" for home in homes for key in _PICTURES if key in held):
            if file.startswith(folder.path) and folder.exists(_name(folder, file)):
                folder.fs.delete_file(file)
    stay = [line for line, held in zip(lines, read, strict=True) if held not in named]
    folder.write(_name(folder, path), b"".join(stay))


def _safetensors(folder: Folder, path: str, gone: Gone) -> None:
    """Drop rows of a shard of features; see ``training.features`` for what it holds."""
    if not folder.is_local:
        return
    with safe_open(path, framework="np") as held:
        about = json.loads((held.metadata() or {}).get("rows", "{}"))
        ids = about.get("ids", [])
        stay = np.array([id_ not in gone.ids for id_ in ids], dtype=bool)
        if stay.all():
            return
        tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
    buckets = np.array(about["buckets"])
    left = {}
    for name, tensor in tensors.items():
        _, dot, bucket = name.partition(".")
        # What differs in shape between buckets is held once per bucket, the rows of it alone.
        left[name] = tensor[stay[buckets == int(bucket)] if dot else stay]
    # Every list has one entry per row.
    for name in [name for name, values in about.items() if isinstance(values, list)]:
        about[name] = [value for value, stays in zip(about[name], stay, strict=True) if stays]
    left = {name: np.ascontiguousarray(tensor) for name, tensor in left.items() if len(tensor)}
    folder.write(_name(folder, path), save(left, {"rows": json.dumps(about)}))
