"""Entries on their way to a server: in memory, and in a file where they must outlive the process.

The file is the record and the memory a copy of it: an entry is appended before it is sent, and a
small file beside it says how many bytes were delivered. After ``kill -9`` at any moment the next
reader finds each entry; one that was sent in the last instant is sent again with the same time, and
MLflow keeps one of the two. Where the disk is full an entry is in memory alone until there is room.
"""

import fcntl
import json
import os
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

Entry = dict[str, Any]


def append_whole(file: FileIO, data: bytes) -> None:
    """Add bytes to the end of a file: all of them, or none.

    Args:
        file: Opened without a buffer, which would hold on to what the system refused.
        data: Whole lines.

    Raises:
        OSError: The disk is full, or refuses; the file is as it was.
    """
    before, left = os.fstat(file.fileno()).st_size, memoryview(data)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError:
        file.truncate(before)
        raise


class Spool:
    """A queue whose entries are taken off only once they were delivered.

    Args:
        path: JSON lines, one per entry, opened for this process alone; None keeps entries in
            memory only.
        about: What every line says besides its entry: whose it is.

    Raises:
        BlockingIOError: Another process has the file open.
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path | None = None, about: Mapping[str, str] | None = None) -> None:
        self.path, self.about = path, dict(about or {})
        """Whose entries these are; read from the file where it is not given."""
        self.last: Entry = {}
        """The newest entry, delivered or not."""
        self._guard = threading.Lock()
        self._waiting: deque[tuple[Entry, int]] = deque()
        self._file: FileIO | None = _open_alone(path) if path else None
        self._end = 0
        self._unwritten = b""
        """The newest lines, where the file did not take them."""
        if self._file:
            self._read(self._file)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def in_memory_only(self) -> int:
        """How many entries end with this process, unless they are delivered or there is room."""
        written = self._end - len(self._unwritten) if self.path else 0
        return sum(end > written for _, end in self._waiting)

    def __enter__(self) -> "Spool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def put(self, entry: Entry) -> None:
        """Add an entry; in the file it is safe from a crash of this process.

        Raises:
            OSError: The file did not take it, which has it in memory until a later call writes it.
        """
        line = json.dumps({"of": self.about} | entry, ensure_ascii=False).encode() + b"\n"
        with self._guard:
            self.last = entry
            self._end += len(line)
            self._waiting.append((entry, self._end))
            if self._file:
                self._unwritten += line
                self._write(self._file)

    def first(self, count: int) -> list[Entry]:
        """Return the oldest entries, which stay."""
        with self._guard:
            return [entry for entry, _ in list(self._waiting)[:count]]

    def delivered(self, count: int) -> None:
        """Take the oldest entries off."""
        with self._guard:
            end = 0
            for _ in range(count):
                _, end = self._waiting.popleft()
            if self._file and self.path and end:
                mark = _mark(self.path)
                beside = mark.with_name(f"{mark.name}.tmp")
                # On a full disk the old mark stays: the next reader sends some of it again.
                with suppress(OSError):
                    beside.write_text(str(min(end, self._end - len(self._unwritten))))
                    beside.replace(mark)

    def close(self) -> None:
        """Let go of the file, and delete it when everything was delivered.

        What it has not taken by now is lost: ``in_memory_only`` says how much that is.
        """
        with self._guard:
            if self._file and self.path:
                with suppress(OSError):
                    if self._waiting:
                        self._write(self._file)
                    else:
                        _mark(self.path).unlink(missing_ok=True)
                        self.path.unlink(missing_ok=True)
                with suppress(OSError):
                    self._file.close()
                self._file = None

    def _write(self, file: FileIO) -> None:
        append_whole(file, self._unwritten)
        self._unwritten = b""

    def _read(self, file: FileIO) -> None:
        """Fill the memory with what an earlier process left."""
        path = Path(str(file.name))
        mark = _mark(path)
        done = int(mark.read_text()) if mark.exists() else 0
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):  # a crash cut it short: it was never reported as kept
                file.truncate(self._end)
                break
            self._end += len(line)
            self.last = json.loads(line)
            self.about = self.about or self.last["of"]
            if self._end > done:
                self._waiting.append((self.last, self._end))


def _mark(path: Path) -> Path:
    """Name the file that says how many bytes were delivered."""
    return path.with_name(f"{path.name}.sent")


def _open_alone(path: Path) -> FileIO:
    """Open a file for this process alone; the operating system lets go when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # whoever had it deleted it between our opening and our lock
