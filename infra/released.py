"""What a released model is: its lineage, and its files by their hashes.

A release writes the SHA-256 of every file into the version's tags (``visage.sha256.<file>``).
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.configuration import digest
from infra.errors import BadWeights

SHA256_TAG = "visage.sha256."
MANIFEST_TAG = "visage.manifest"
"""Digest of all names and hashes: the same export is the same version."""
_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One released model, as the registry describes it."""

    name: str
    version: int
    tags: Mapping[str, str]
    """Lineage: recipe, corpus, code, scores, base, encoder, licences."""
    aliases: tuple[str, ...]
    files: Mapping[str, str]
    """SHA-256 by path within the export."""
    run_id: str
    """MLflow's id of the training run; empty where it is not known."""
    source: str
    """Where the registry keeps the files."""
    description: str

    @property
    def reference(self) -> str:
        """How to name just this version: ``NAME/3``."""
        return f"{self.name}/{self.version}"

    @property
    def manifest(self) -> str:
        """Digest of all file names and hashes."""
        return digest(dict(self.files))


def version_of(held: Any, aliases: tuple[str, ...]) -> ModelVersion:  # noqa: ANN401 - mlflow is not typed
    """Read a version as MLflow tells of it."""
    return ModelVersion(
        name=held.name, version=int(held.version), tags=dict(held.tags), aliases=aliases,
        files=files_of(held.tags), run_id=held.run_id or "", source=held.source,
        description=held.description or "",
    )  # fmt: skip


def manifest(folder: Path) -> dict[str, str]:
    """Hash every file of an export: SHA-256 by path within the folder.

    Raises:
        BadWeights: There is nothing, a pickle, or a name that a registry cannot keep.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise BadWeights(str(folder), "holds no file", "Name the folder of an export.")
    for path in files:
        if path.suffix in _PICKLES:
            cure = "Pickles run code when they are read: convert it to safetensors."
            raise BadWeights(str(path), "is a pickle", cure)
    hashes: dict[str, str] = {}
    for path in files:
        name = path.relative_to(folder).as_posix()
        if not _FILE.fullmatch(name):
            raise BadWeights(str(path), "has a strange name", "Use letters, digits, _, - and dots.")
        with path.open("rb") as file:
            hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def manifest_tags(files: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that say what an export's files are."""
    hashes = {f"{SHA256_TAG}{name}": value for name, value in files.items()}
    return {**hashes, MANIFEST_TAG: digest(dict(files))}


def files_of(tags: Mapping[str, str]) -> dict[str, str]:
    """Read the files and their hashes back from tags."""
    return {
        key.removeprefix(SHA256_TAG): value
        for key, value in sorted(tags.items())
        if key.startswith(SHA256_TAG)
    }


def check(folder: Path, version: ModelVersion, cure: str) -> None:
    """Compare a folder with the files that were released.

    Raises:
        BadWeights: A file was changed, is missing, or was added.
    """
    found, files, reference = manifest(folder), version.files, version.reference
    for name in sorted(found.keys() | files.keys()):
        if found.get(name) == files.get(name):
            continue
        if name not in found:
            why = f"is missing, and belongs to {reference}"
        elif name not in files:
            why = f"was not released with {reference}"
        else:
            why = f"is not the one that was released as {reference}: its SHA-256 differs"
        raise BadWeights(str(folder / name), why, cure)
