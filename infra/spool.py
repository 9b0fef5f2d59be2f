"""Entries on their way to a server: in memory, and in a file where they must outlive the process.

The file is the record and the memory a copy of it: an entry is appended before it is sent, and a
small file beside it says how many bytes were delivered. After ``kill -9`` at any moment the next
reader finds each entry; one that was sent in the last instant is sent again with the same time, and
MLflow keeps one of the two.
"""

import fcntl
import json
import os
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

Entry = dict[str, Any]


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
        self._file: IO[bytes] | None = _open_alone(path) if path else None
        self._end = 0
        if self._file:
            self._read(self._file)

    def __len__(self) -> int:
        return len(self._waiting)

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
        """Add an entry; in the file it is safe from a crash of this process."""
        line = json.dumps({"of": self.about} | entry, ensure_ascii=False).encode() + b"\n"
        with self._guard:
            self.last = entry
            if self._file:
                self._file.write(line)
                self._file.flush()
            self._end += len(line)
            self._waiting.append((entry, self._end))

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
                beside.write_text(str(end))
                beside.replace(mark)

    def close(self) -> None:
        """Let go of the file, and delete it when everything was delivered."""
        with self._guard:
            if self._file and self.path:
                if not self._waiting:
                    _mark(self.path).unlink(missing_ok=True)
                    self.path.unlink(missing_ok=True)
                self._file.close()
                self._file = None

    def _read(self, file: IO[bytes]) -> None:
        """Fill the memory with what an earlier process left."""
        mark = _mark(Path(file.name))
        done = int(mark.read_text()) if mark.exists() else 0
        file.seek(0)
        for line in file:
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


def _open_alone(path: Path) -> IO[bytes]:
    """Open a file for this process alone; the operating system lets go when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # whoever had it deleted it between our opening and our lock
