"""Read local pictures out of folders and tars, on disk or in S3."""

import posixpath
from functools import lru_cache
from pathlib import Path

from pyarrow import fs

from stages.types import Batch

_OPEN_SOURCES = 16


class _Unread(Exception):
    """One picture cannot be had: the error and the values behind it."""

    def __init__(self, error: str, detail: str) -> None:
        self.error, self.detail = error, detail
        super().__init__(error, detail)


class Read:
    """Turn ``source``, ``member``, ``offset`` and ``length`` into ``blob``, or say why not.

    A source is a folder, then ``member`` is a path in it; or an uncompressed tar, then ``offset``
    and ``length`` say where in it the picture lies. It may be given as a URI, such as
    ``s3://bucket/prefix``. Rows of one tar share one open file.

    Args:
        max_bytes: The largest picture that is read; of a larger one nothing is.
    """

    reads = ("source", "member", "offset", "length")
    writes = ("blob", "error", "error_detail")

    def __init__(self, max_bytes: int = 20 * 2**20) -> None:
        self.max_bytes = max_bytes
        self._open = lru_cache(maxsize=_OPEN_SOURCES)(_open)

    def __call__(self, batch: Batch) -> Batch:
        """Read every picture in ``batch``."""
        rows = zip(*(batch[name] for name in self.reads), strict=True)
        answers = [self._read(str(source), *place) for source, *place in rows]
        return {name: [answer[i] for answer in answers] for i, name in enumerate(self.writes)}

    def _read(
        self, source: str, member: str, offset: int, length: int | None
    ) -> tuple[bytes | None, str, str]:
        try:
            blob = self._open(source).read(member, offset, length, self.max_bytes)
        except _Unread as problem:
            return None, problem.error, problem.detail
        except (OSError, ValueError) as problem:  # what pyarrow says of files and of URIs
            return None, "missing_file", f"{member!r} in {source!r}: {problem}"
        return blob, "", ""


class _Folder:
    """Pictures that are files of their own."""

    def __init__(self, files: fs.FileSystem, root: str) -> None:
        self.files, self.root = files, root

    def read(self, member: str, offset: int, length: int | None, max_bytes: int) -> bytes:
        """Read one file; it may have grown since it was listed, but not shrunk."""
        del offset  # a file begins at its beginning
        with self.files.open_input_file(self._inside(member)) as file:
            size = file.size()
            _check(size, max_bytes)
            if size < (length or 0):
                raise _Unread("missing_file", f"{size} bytes are left of {length}")
            return bytes(file.read(size))

    def _inside(self, member: str) -> str:
        """Return the path of ``member``, unless "..", a link or a "/" leads out of the folder."""
        if isinstance(self.files, fs.LocalFileSystem):
            root = str(Path(self.root).resolve())
            path = str(Path(root, member).resolve())
        else:
            root = self.root.rstrip("/")
            path = posixpath.normpath(posixpath.join(root, member))
        if not path.startswith(root.rstrip("/") + "/"):
            raise _Unread("missing_file", f"{member!r} leads out of the folder {self.root!r}")
        return path


class _Tar:
    """Pictures that are stretches of one file."""

    def __init__(self, files: fs.FileSystem, path: str) -> None:
        self.file = files.open_input_file(path)

    def read(self, member: str, offset: int, length: int | None, max_bytes: int) -> bytes:
        """Read one stretch of the tar."""
        if length is None:
            raise _Unread("missing_file", f"{member!r} has no length in the list of the tar")
        _check(length, max_bytes)
        blob = bytes(self.file.read_at(length, offset))
        if len(blob) < length:
            raise _Unread(
                "missing_file", f"{len(blob)} bytes are left of {length} from byte {offset}"
            )
        return blob


def _open(source: str) -> _Folder | _Tar:
    """Find out what ``source`` is.

    Raises:
        OSError: It is not there, or may not be read.
        ValueError: It is no URI that pyarrow knows.
    """
    if "://" in source:
        files, path = fs.FileSystem.from_uri(source)
    else:
        files, path = fs.LocalFileSystem(), source
    kind = files.get_file_info(path).type
    return _Folder(files, path) if kind == fs.FileType.Directory else _Tar(files, path)


def _check(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise _Unread("too_large", f"{size} bytes, {max_bytes} allowed")
    if size == 0:
        raise _Unread("empty", "the file has no bytes")
