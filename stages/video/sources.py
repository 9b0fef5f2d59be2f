"""Open the bytes of a video where they are: a file, a folder, a stretch of a tar, memory."""

import posixpath
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import SEEK_CUR, SEEK_END, BytesIO
from pathlib import Path
from typing import Any

from pyarrow import NativeFile, fs

from stages.video.decode import BadVideo, ByteFile

READS = ("file", "blob", "source", "member", "offset", "length")
"""The columns that say where a video is; the first that is not empty decides."""


class Stretch:
    """A part of an open file, as a file of its own.

    Args:
        file: An open file of pyarrow's.
        offset: Its first byte.
        length: Its bytes.
    """

    def __init__(self, file: NativeFile, offset: int, length: int) -> None:
        self._file, self._offset, self._length, self._at = file, offset, length, 0

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes; none at the end."""
        left = max(self._length - self._at, 0)
        size = left if size < 0 else min(size, left)
        part = bytes(self._file.read_at(size, self._offset + self._at)) if size else b""
        self._at += len(part)
        return part

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a place, as ``io`` counts them."""
        origin = {SEEK_CUR: self._at, SEEK_END: self._length}.get(whence, 0)
        self._at = max(origin + offset, 0)
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at


@contextmanager
def opened(row: Mapping[str, Any]) -> Iterator[ByteFile]:
    """Open one row's video; nothing of it is read yet, and never all of it at once.

    Args:
        row: The columns ``READS``: ``file`` is a path of this machine; ``source`` is a folder with
            ``member``, or an uncompressed tar with ``offset`` and ``length``, here or as a URI.

    Raises:
        BadVideo: ``missing_file`` or ``empty``.
    """
    try:
        with _open(row) as file:
            if file.seek(0, SEEK_END) == 0:
                raise BadVideo("empty", "the file has no bytes")
            file.seek(0)
            yield file
    except FileNotFoundError as problem:
        raise BadVideo("missing_file", str(problem)[:200]) from None


@contextmanager
def _open(row: Mapping[str, Any]) -> Iterator[ByteFile]:
    if row["file"]:
        with Path(row["file"]).open("rb") as local:
            yield local
    elif row["blob"] is not None:
        yield BytesIO(row["blob"])
    else:
        source, member = row["source"], row["member"]
        files, path = _filesystem(source)
        if files.get_file_info(path).type == fs.FileType.Directory:
            with files.open_input_file(_inside(files, path, member)) as whole:
                if whole.size() < (row["length"] or 0):
                    said = f"{whole.size()} bytes are left of {row['length']}"
                    raise BadVideo("missing_file", said)
                yield Stretch(whole, 0, whole.size())
        else:
            with files.open_input_file(path) as tar:
                offset, length = row["offset"] or 0, row["length"]
                if length is None or offset + length > tar.size():
                    said = f"{member!r}: {length} bytes from byte {offset} are not in the tar"
                    raise BadVideo("missing_file", said)
                yield Stretch(tar, offset, length)


def _filesystem(source: str) -> tuple[fs.FileSystem, str]:
    try:
        if "://" in source:
            files, path = fs.FileSystem.from_uri(source)
            return files, path
    except (OSError, ValueError) as problem:
        raise BadVideo("missing_file", f"{source!r}: {problem}"[:200]) from None
    return fs.LocalFileSystem(), source


def _inside(files: fs.FileSystem, root: str, member: str) -> str:
    """Return the path of ``member``, unless "..", a link or a "/" leads out of the folder."""
    if isinstance(files, fs.LocalFileSystem):
        root = str(Path(root).resolve())
        path = str(Path(root, member).resolve())
    else:
        path = posixpath.normpath(posixpath.join(root, member))
    if not path.startswith(root.rstrip("/") + "/"):
        raise BadVideo("missing_file", f"{member!r} leads out of the folder {root!r}")
    return path
