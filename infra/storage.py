"""Folders, on this machine or in an object store, behind one small interface.

Nothing here relies on renaming: an object store cannot do it atomically. Whoever writes several
files writes a marker last, and whoever reads looks for the marker first.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from infra.errors import BadValue, UnwritableStore
from infra.settings import read_settings


@dataclass(frozen=True)
class Folder:
    """One folder of a filesystem."""

    fs: pafs.FileSystem
    path: str

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.fs, f"{self.path}/{name}")

    def __str__(self) -> str:
        return self.path if self.is_local else f"{self.fs.type_name}://{self.path}"

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def is_local(self) -> bool:
        """Whether plain file operations work here."""
        return isinstance(self.fs, pafs.LocalFileSystem)

    def exists(self, name: str = "") -> bool:
        """Whether there is such a file or folder."""
        path = f"{self.path}/{name}" if name else self.path
        return bool(self.fs.get_file_info(path).type != pafs.FileType.NotFound)

    def make(self) -> "Folder":
        """Create the folder if it is not there.

        Raises:
            UnwritableStore: It cannot be created.
        """
        try:
            self.fs.create_dir(self.path, recursive=True)
        except OSError as error:
            raise UnwritableStore(str(self), str(error)) from None
        return self

    def clear(self) -> None:
        """Delete the folder with all it holds, if it is there."""
        if self.exists():
            self.fs.delete_dir(self.path)

    def files(self, ending: str = "") -> list[str]:
        """List the paths of all files below, sorted."""
        selector = pafs.FileSelector(self.path, recursive=True, allow_not_found=True)
        infos = self.fs.get_file_info(selector)
        return sorted(i.path for i in infos if i.is_file and i.path.endswith(ending))

    def folders(self) -> Iterator["Folder"]:
        """Yield the folders directly below, by name."""
        selector = pafs.FileSelector(self.path, allow_not_found=True)
        infos = sorted(self.fs.get_file_info(selector), key=lambda info: info.path)
        yield from (Folder(self.fs, i.path) for i in infos if i.type == pafs.FileType.Directory)

    def write(self, name: str, content: str | bytes) -> None:
        """Write one file whole: a reader sees the old one or the new one, never half."""
        data = content.encode() if isinstance(content, str) else content
        path = f"{self.path}/{name}"
        self.fs.create_dir(path.rpartition("/")[0], recursive=True)
        # An object store shows an object when it is complete; a local file needs the rename.
        target = f"{path}.{os.getpid()}.tmp" if self.is_local else path
        with self.fs.open_output_stream(target) as stream:
            stream.write(data)
        if self.is_local:
            Path(target).replace(path)

    def read(self, name: str) -> bytes:
        """Read one file whole."""
        with self.fs.open_input_file(f"{self.path}/{name}") as stream:
            data: bytes = stream.read()
        return data

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Read a JSON object; None where there is no such file."""
        if not self.exists(name):
            return None
        value: dict[str, Any] = json.loads(self.read(name))
        return value

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON object for people to read."""
        self.write(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write one Parquet file whole."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write(name, sink.getvalue().to_pybytes())


def without_secrets(uri: str) -> str:
    """Return a URI without the user and password before its host."""
    return re.sub(r"(?<=://)[^/@]*@", "", uri)


def open_folder(where: str) -> Folder:
    """Return the folder named by a path or a URI such as ``s3://bucket/prefix``.

    Raises:
        BadValue: The URI has a scheme that is not known, or carries a secret; or a variable of
            infra/settings.py, such as ``AWS_ENDPOINT_URL``, has a value that cannot work.
    """
    if "://" not in where:
        return Folder(pafs.LocalFileSystem(), str(Path(where).expanduser().resolve()))
    if (shown := without_secrets(where)) != where:
        # Paths are written into recipes, reports and MLflow.
        raise BadValue("path", shown, "keep keys out of paths; set AWS_ACCESS_KEY_ID and its like.")
    read_settings()  # pyarrow reads AWS_ENDPOINT_URL itself, but takes a wrong one for a host
    try:
        fs, path = pafs.FileSystem.from_uri(where)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadValue("path", where, f"use a local path or s3://...: {error}") from None
    return Folder(fs, path.rstrip("/"))


def open_store(where: str) -> Folder:
    """Return a store's folder, made if need be, after proving that it can be written.

    Raises:
        UnwritableStore: A file cannot be written there.
    """
    store = open_folder(where).make()
    try:
        store.write(".writable", b"")
        store.fs.delete_file(f"{store.path}/.writable")
    except OSError as error:
        raise UnwritableStore(where, str(error)) from None
    return store


def count_rows(folder: Folder, *, after_crash: bool = False) -> int:
    """Count the rows of a folder's Parquet files from their footers.

    Args:
        folder: Where the files are, at any depth.
        after_crash: Count a file that was cut short as nothing, instead of raising.
    """
    rows = 0
    for path in folder.files(".parquet"):
        try:
            rows += pq.read_metadata(path, filesystem=folder.fs).num_rows
        except pa.ArrowInvalid:
            if not after_crash:
                raise
    return rows
