"""The code that a submitted run takes along: our five packages, and a recipe's file, as one zip."""

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

from infra.cluster import ROOT
from infra.errors import BadInput

PACKAGES = ("pipelines", "serving", "training", "stages", "infra")
LIMIT_BYTES = 100 * 2**20
"""What the door of Ray's jobs lets through, whatever its documentation says."""
_THEN = (1980, 1, 1, 0, 0, 0)
"""The same code is the same zip, whenever it is packed."""


class TooLarge(BadInput):
    """The code is larger than a cluster takes over HTTP."""

    def __init__(self, size_bytes: int, largest: Sequence[tuple[str, int]]) -> None:
        self.size_bytes, self.largest = size_bytes, tuple(largest)
        super().__init__(size_bytes, self.largest)

    def __str__(self) -> str:
        named = ", ".join(f"{path} ({size / 2**20:,.1f} MiB)" for path, size in self.largest)
        return (
            f"The code to send has {self.size_bytes / 2**20:,.1f} MiB, and a cluster takes "
            f"{LIMIT_BYTES // 2**20} MiB. The largest files are {named}: move them out of the "
            "packages, to the store or into the cluster's image."
        )


def pack(target: Path, beside: Sequence[Path] = (), root: Path = ROOT) -> str:
    """Write the zip; return its SHA-256, which is equal for equal code.

    Args:
        target: The file to write.
        beside: Files to put on its top level.
        root: Where the five packages are.

    Raises:
        TooLarge: A cluster would refuse it.
    """
    files = [
        (path.relative_to(root).as_posix(), path)
        for package in PACKAGES
        for path in sorted((root / package).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]
    files += [(path.name, path) for path in beside]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as parcel:
        for name, path in files:
            entry = zipfile.ZipInfo(name, _THEN)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            with path.open("rb") as source, parcel.open(entry, "w", force_zip64=True) as packed:
                while piece := source.read(2**20):
                    packed.write(piece)
        largest = sorted(parcel.infolist(), key=lambda entry: -entry.compress_size)[:3]
    if (size := target.stat().st_size) > LIMIT_BYTES:
        raise TooLarge(size, [(entry.filename, entry.compress_size) for entry in largest])
    return hashlib.sha256(target.read_bytes()).hexdigest()
