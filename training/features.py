"""Prepared features on disk: what ``visage prepare`` writes and training reads.

A folder holds ``features.json`` (a ``Features``), ``index.parquet`` (one row per sample: ``id``,
``person``, ``caption``, ``shard``, ``row``) and ``shards/shard-00000.safetensors``, each with one
tensor per feature whose first axis is the rows. Safetensors are mapped into memory: a row is read
without reading the shard.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int64
from safetensors import safe_open
from torch import Tensor

from infra.errors import UnreadableSource


@dataclass(frozen=True, kw_only=True)
class Features:
    """What ``features.json`` says."""

    corpus: str
    """Digest of the corpus that the features were made from."""
    image_px: int
    """Side of the square pictures behind the latents."""
    codec: str
    """Weights that turn pictures into latents and back: ``file:`` or ``random:`` reference."""
    latent_shape: tuple[int, int, int]
    text_shape: tuple[int, int]
    """Tokens and width of the text features; (0, 0) where there are none."""
    identity_dim: int
    embedder: str
    """The encoder behind ``identity``: name@first 12 digits of its sha256."""
    backend: str
    """``dlib`` or ``insightface``: who measures identity when pictures are evaluated."""
    identity_mean: tuple[float, ...]
    identity_std: tuple[float, ...]

    def write(self, folder: Path) -> None:
        """Write ``features.json``."""
        (folder / "features.json").write_text(json.dumps(asdict(self), indent=2) + "\n")

    @staticmethod
    def read(folder: Path) -> "Features":
        """Read ``features.json``.

        Raises:
            UnreadableSource: The folder was not prepared, or not to the end.
        """
        path = folder / "features.json"
        if not path.exists():
            raise UnreadableSource(
                str(folder), "it has no features.json", "Make it with `visage prepare`."
            )
        held: dict[str, Any] = json.loads(path.read_text())
        held = {key: tuple(v) if isinstance(v, list) else v for key, v in held.items()}
        return Features(**held)


class Prepared:
    """Samples by number, in the order of their ids."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.features = folder, Features.read(folder)
        index = pq.read_table(folder / "index.parquet").sort_by("id")
        self.ids: list[str] = index["id"].to_pylist()
        self.people: list[str] = index["person"].to_pylist()
        self._shards: list[int] = index["shard"].to_pylist()
        self._rows: list[int] = index["row"].to_pylist()
        self._open: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, name: str, samples: Int64[np.ndarray, " samples"]) -> Tensor:
        """Return one feature of some samples, stacked, as float32."""
        rows = [self._slice(self._shards[i], self._rows[i], name) for i in samples.tolist()]
        return torch.stack(rows).float()

    def _slice(self, shard: int, row: int, name: str) -> Tensor:
        if shard not in self._open:
            path = self.folder / f"shards/shard-{shard:05d}.safetensors"
            self._open[shard] = safe_open(path, framework="pt")
        held: Tensor = self._open[shard].get_slice(name)[row]
        return held

    def split(
        self, heldout_share: float
    ) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " m"]]:
        """Divide samples into training and held-out ones, a person wholly on one side.

        A person's side follows from the name alone, so that a corpus can grow without leaking.
        """
        held = np.array([_lot(person) < heldout_share for person in self.people], dtype=bool)
        return np.flatnonzero(~held), np.flatnonzero(held)


def _lot(person: str) -> float:
    """Give a name its number in 0 to 1.

    The hash is our own: a corpus may itself be one side of a split by a plain hash of names, and
    the same hash would then hold out half of it, or nobody.
    """
    said = hashlib.blake2b(person.encode(), digest_size=6, person=b"heldout")
    return int.from_bytes(said.digest(), "big") / 2**48


def write_index(folder: Path, rows: list[dict[str, object]]) -> None:
    """Write ``index.parquet``."""
    pq.write_table(pa.Table.from_pylist(rows), folder / "index.parquet")
