"""Prepared features on disk: what ``visage prepare`` writes and training reads.

A folder holds ``features.json`` (a ``Features``), ``index.parquet`` (one row per sample: ``id``,
``person``, ``caption``, ``shard``, ``row``) and ``shards/shard-00000.safetensors``, each with one
tensor per feature whose first axis is the rows. Safetensors are mapped into memory: a row is read
without reading the shard. Where photographs were paired there is ``pairs.parquet``: ids of samples,
``reference`` and ``target``. Where captions describe the parts of faces the index has them as
``caption_parts``.

With aspect buckets pictures differ in shape, so ``latents`` and ``mask`` are held once per bucket,
as ``latents.0``, ``latents.1``, ...; the index then also says ``bucket`` and ``place``, the row in
these. With an encoder there is ``empty.safetensors``: what it says of the empty prompt or picture.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from infra.configuration import digest
from infra.errors import UnreadableSource

EMPTY_FILE = "empty.safetensors"
PAIRS_FILE = "pairs.parquet"
SHAPED = ("latents", "mask")
"""Features whose shape differs between aspect buckets."""
SHAPED_VIDEO = (*SHAPED, "motion", "landmarks", "seen")
"""The same of videos, whose buckets also differ in their frames."""
_AGAIN = "Delete what is left of it, then run the same `visage prepare`: it makes what is missing."


@dataclass(frozen=True, kw_only=True)
class Features:
    """What ``features.json`` says."""

    corpus: str
    """Digest of the corpus that the features were made from."""
    image_px: int
    """Side of the square pictures behind the latents; with buckets, the root of their area."""
    codec: str
    """Weights that turn pictures into latents and back: ``file:`` or ``random:`` reference."""
    latent_shape: tuple[int, int, int]
    """Channels, rows, columns; with buckets, those of the first."""
    text_shape: tuple[int, int]
    """Tokens and width of the text features; (0, 0) where there are none."""
    identity_dim: int
    embedder: str
    """The encoder behind ``identity``: name@first 12 digits of its sha256."""
    backend: str
    """``dlib`` or ``insightface``: who measures identity when pictures are evaluated."""
    identity_mean: tuple[float, ...]
    identity_std: tuple[float, ...]
    pooled_dim: int = 0
    """Width of the text encoder's pooled vector, as SDXL takes it; 0 where there is none."""
    text_encoder: str = ""
    """Reference of what made ``text`` and ``pooled``; empty where there is none."""
    image_shape: tuple[int, int] = (0, 0)
    """Tokens and width of the image encoder's states of the face; (0, 0) where there are none."""
    image_encoder: str = ""
    """Reference of what made ``image``; empty where there is none."""
    face_states_shape: tuple[int, int, int] = (0, 0, 0)
    """Of videos: layers, tokens and width of ``face_states``; (0, 0, 0) where there are none."""
    face_pooled_dim: int = 0
    """Width of ``face_pooled``; 0 where there is none."""
    face_encoder: str = ""
    """Reference of the image encoder that made these two."""
    latent_shapes: tuple[tuple[int, ...], ...] = ()
    """One latent shape per aspect bucket; empty: all latents have ``latent_shape``. Of videos with
    the frames after the channels, so that a picture among them is a bucket of one frame."""
    frames: int = 0
    """Of videos: latent frames per sample; with buckets, of the first. 0: these are pictures."""
    clip_frames: int = 0
    """Of videos: frames per sample before the codec."""
    fps: float = 0.0
    """Of videos: at which these frames follow each other."""
    pairs: str = ""
    """Digest of the pairs that say which photograph is shown for which; empty where any other of
    the same person is."""
    weights: dict[str, str] = field(default_factory=dict)
    """What stood behind each reference: sha256 of ``file:`` weights, ``random:<preset>#<seed>``."""
    preparation: str = ""
    """Digest of the recipe, corpus and weights that the features were made with."""
    licences: dict[str, int] = field(default_factory=dict)
    """Pictures of the corpus by licence; empty where that is not known."""

    def write(self, folder: Path) -> None:
        """Write ``features.json``, whole or not at all."""
        beside = folder / "features.json.part"
        beside.write_text(json.dumps(asdict(self), indent=2) + "\n")
        beside.replace(folder / "features.json")

    @staticmethod
    def read(folder: Path) -> "Features":
        """Read ``features.json``.

        Raises:
            UnreadableSource: The folder was not prepared, or not to the end, or is damaged.
        """
        path = folder / "features.json"
        if not path.exists():
            raise UnreadableSource(
                str(folder), "it has no features.json", "Make it with `visage prepare`."
            )
        try:
            held: dict[str, Any] = json.loads(path.read_text())
            return Features(**{key: _tuples(value) for key, value in held.items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UnreadableSource:
    """Say which file of a folder of features is lost or cut, and what to do."""
    why = "it does not exist" if isinstance(error, FileNotFoundError) else f"it is damaged: {error}"
    return UnreadableSource(str(path), why, _AGAIN)


def _tuples(value: Any) -> Any:  # noqa: ANN401 - what JSON holds
    """Turn JSON's lists back into tuples."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


class Prepared:
    """Samples by number, in the order of their ids.

    Attributes:
        ids: Of the samples, ascending.
        people: Whose photograph each is.
        buckets: The aspect bucket of each; all 0 without buckets.
        digest: Of ``features.json``; what is prepared otherwise, or of another corpus, has another.

    Raises:
        UnreadableSource: The folder was not prepared to the end, or a file of it is lost or
            damaged. Of a shard that is noticed when it is read first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.features = folder, Features.read(folder)
        # Of the file: what a newer version would say beside it alters no older digest.
        self.digest = digest(json.loads((folder / "features.json").read_text()))
        try:
            index = pq.read_table(folder / "index.parquet").sort_by("id")
        except (OSError, pa.ArrowInvalid) as error:
            raise _damaged(folder / "index.parquet", error) from None
        self.ids: list[str] = index["id"].to_pylist()
        self.people: list[str] = index["person"].to_pylist()
        self._shards = index["shard"].to_numpy()
        self._rows = index["row"].to_numpy()
        bucketed = bool(self.features.latent_shapes)
        self.buckets: Int64[np.ndarray, " samples"] = (
            index["bucket"].to_numpy() if bucketed else np.zeros(len(index), dtype=np.int64)
        )
        self._places = index["place"].to_numpy() if bucketed else self._rows
        self._tensors: dict[tuple[int, str], Tensor] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def names(self) -> frozenset[str]:
        """The features that every sample has."""
        path = self._path(int(self._shards[0]))
        try:
            with safe_open(path, framework="pt") as held:
                return frozenset(name.partition(".")[0] for name in held.keys())  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise _damaged(path, error) from None

    @cached_property
    def references(self) -> dict[int, list[int]]:
        """The samples that each is paired with, ascending; of those that are in a pair."""
        path = self.folder / PAIRS_FILE
        if not self.features.pairs or not path.exists():
            return {}
        try:
            rows = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise _damaged(path, error) from None
        number = {id_: n for n, id_ in enumerate(self.ids)}
        found: dict[int, list[int]] = {}
        for a, b in zip(*(rows[name].to_pylist() for name in ("reference", "target")), strict=True):
            found.setdefault(number[b], []).append(number[a])
        return {target: sorted(shown) for target, shown in found.items()}

    def read(self, name: str, samples: Int64[np.ndarray, " samples"]) -> Tensor:
        """Return one feature of some samples, stacked, as float32.

        Args:
            name: Of the feature, as ``training.method.Batch`` lists them.
            samples: Numbers of samples; for what differs between buckets all of one.
        """
        rows = self._rows
        shaped = SHAPED_VIDEO if self.features.frames else SHAPED
        if self.features.latent_shapes and name in shaped:
            name, rows = f"{name}.{self.buckets[samples[0]]}", self._places
        shards, wanted = self._shards[samples], torch.from_numpy(rows[samples])
        parts: list[Tensor] = []
        order: list[Int64[np.ndarray, " rows"]] = []
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            # At once: autocast, which may be on, joins no float16 on a CPU.
            parts.append(self._tensor(shard, name)[wanted[here]].float())
            order.append(here)
        back = torch.from_numpy(np.argsort(np.concatenate(order)))
        return torch.cat(parts)[back]

    def _tensor(self, shard: int, name: str) -> Tensor:
        """Map one feature of a shard into memory; its pages are read when they are asked for."""
        if (shard, name) not in self._tensors:
            path = self._path(shard)
            try:
                with safe_open(path, framework="pt") as held:
                    self._tensors[shard, name] = held.get_tensor(name)
            except (OSError, SafetensorError) as error:
                raise _damaged(path, error) from None
        return self._tensors[shard, name]

    def _path(self, shard: int) -> Path:
        return self.folder / f"shards/shard-{shard:05d}.safetensors"

    def empty(self) -> dict[str, Tensor]:
        """Return what stands for dropped conditions.

        Returns:
            ``text`` (tokens x width) and, if the encoder pools, ``pooled`` (width): the states of
            the empty prompt; ``image`` (tokens x width): of the empty picture. As float32; only
            what was prepared.
        """
        path = self.folder / EMPTY_FILE
        if not path.exists():
            return {}
        try:
            return {name: tensor.float() for name, tensor in load_file(path).items()}
        except SafetensorError as error:
            raise _damaged(path, error) from None

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
    """Write ``index.parquet``, whole or not at all."""
    beside = folder / "index.parquet.part"
    pq.write_table(pa.Table.from_pylist(rows), beside)
    beside.replace(folder / "index.parquet")


def write_pairs(folder: Path, pairs: Sequence[tuple[str, str]]) -> None:
    """Write ``pairs.parquet``, whole or not at all; none, where there are no pairs.

    Args:
        folder: Of the features.
        pairs: Ids of reference and target.
    """
    (folder / PAIRS_FILE).unlink(missing_ok=True)
    if pairs:
        columns = {n: [pair[at] for pair in pairs] for at, n in enumerate(("reference", "target"))}
        beside = folder / f"{PAIRS_FILE}.part"
        pq.write_table(pa.table(columns), beside)
        beside.replace(folder / PAIRS_FILE)
