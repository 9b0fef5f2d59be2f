"""From an exported corpus to training features: latents, identity, landmarks, masks.

One task per exported file writes one shard, whole or not at all, so a crash costs the shards that
were under way and nothing is prepared twice.
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from rich.console import Console
from safetensors.torch import save_file

from infra.cluster import cluster
from infra.configuration import digest, to_dict
from infra.errors import UnreadableSource
from pipelines.parallel import spread
from pipelines.prepare_recipes import PrepareRecipe
from pipelines.progress import Reporter
from stages.decode import decode
from stages.models.backend import load_embedder
from stages.types import RGB
from training.crops import aligned, aligned_landmarks_px, aligned_mask, square
from training.features import Features, write_index
from training.nets.codec import Codec, PatchCodec, load_codec

CODEC_FILE = "codec.safetensors"
FIT_ROWS = 1024
"""Pictures that the patch code is fitted to."""


@dataclass(frozen=True)
class Prepared:
    """How it ended."""

    path: str
    samples: int
    people: int
    left_out: int
    """Corpus rows without a face, which have no identity to learn."""


def prepare(recipe: PrepareRecipe, out: str, console: Console, address: str = "") -> Prepared:
    """Write the features of a corpus into ``out``; go on where an earlier try stopped.

    Raises:
        UnreadableSource: The corpus is no finished export, or nobody in it has a face.
    """
    files = _corpus_files(recipe.corpus)
    corpus = digest([[path.name, path.stat().st_size] for path in files])
    folder = Path(out)
    wanted = digest(to_dict(recipe), corpus)
    marker = folder / "prepare.json"
    if not marker.exists() or json.loads(marker.read_text())["fingerprint"] != wanted:
        _clear(folder)
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    about = {"fingerprint": wanted, "recipe": to_dict(recipe), "corpus": corpus}
    marker.write_text(json.dumps(about, indent=2) + "\n")
    codec = _codec(recipe, folder, files)

    reporter, total = Reporter(console), sum(pq.read_metadata(f).num_rows for f in files)
    todo = [(n, f) for n, f in enumerate(files) if not _shard(folder, n).exists()]
    before = total - sum(pq.read_metadata(f).num_rows for _, f in todo)
    with cluster(address) as cpus, reporter.job("prepare", total, before):
        done = 0
        for rows in spread(write_shard, todo, recipe, codec, folder, at_once=cpus):
            done += rows
            reporter.rows(done)
    return _finish(recipe, corpus, codec, folder, total)


def _corpus_files(corpus: str) -> list[Path]:
    """Find the Parquet files of an export."""
    home = Path(corpus).expanduser() if corpus else Path("no corpus")
    for folder in (home / "export/parquet", home / "parquet", home):
        if files := sorted(folder.glob("part-*.parquet")):
            return files
    raise UnreadableSource(
        corpus, "no exported corpus is there", "Name a run of `visage curate` with --corpus."
    )


def _clear(folder: Path) -> None:
    """Remove what another recipe or corpus left."""
    for name in ("features.json", "index.parquet", CODEC_FILE):
        (folder / name).unlink(missing_ok=True)
    for path in (folder / "shards").glob("*"):
        path.unlink()


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shards/shard-{number:05d}.safetensors"


def _codec(recipe: PrepareRecipe, folder: Path, files: list[Path]) -> str:
    """Return the codec's reference; fit and write the patch code if that is asked for."""
    if recipe.codec != "patches":
        return recipe.codec
    if not (folder / CODEC_FILE).exists():
        pictures: list[RGB] = []
        for path in files:
            pictures += _pictures(pq.read_table(path).to_pylist(), recipe)[0]
            if len(pictures) >= FIT_ROWS:
                break
        codec = PatchCodec()
        codec.fit(_tensor(pictures[:FIT_ROWS]))
        codec.save(folder / CODEC_FILE)
    return f"file:{CODEC_FILE}"


def write_shard(place: tuple[int, Path], recipe: PrepareRecipe, codec: str, folder: Path) -> int:
    """Prepare one exported file; return how many rows it has."""
    number, path = place
    torch.set_num_threads(1)
    every = pq.read_table(path).to_pylist()
    rows = [row for row in every if row["num_faces"]]
    coder = load_codec(codec, folder)
    parts: dict[str, list[torch.Tensor]] = defaultdict(list)
    for start in range(0, len(rows), recipe.batch_rows):
        for name, tensor in _features(
            rows[start : start + recipe.batch_rows], recipe, coder
        ).items():
            parts[name].append(tensor)
    tensors = {name: torch.cat(each).contiguous() for name, each in parts.items()}
    people = [_person(row, recipe) for row in rows]
    about = {"ids": [row["id"] for row in rows], "people": people,
             "captions": [row["caption"] for row in rows],
             "embedder": rows[0]["embedder"] if rows else ""}  # fmt: skip
    target = _shard(folder, number)
    beside = target.with_suffix(".part")
    save_file(tensors, beside, {"rows": json.dumps(about)})
    beside.replace(target)
    return len(every)


def _person(row: dict[str, Any], recipe: PrepareRecipe) -> str:
    """Name whose photograph a row is; without a label everybody is somebody else."""
    return str(row["label"]) if recipe.people == "label" and row["label"] else str(row["id"])


@torch.inference_mode()
def _features(
    rows: list[dict[str, Any]], recipe: PrepareRecipe, codec: Codec
) -> dict[str, torch.Tensor]:
    pictures, landmarks = _pictures(rows, recipe)
    latents = codec.encode(_tensor(pictures))
    _, _, height, width = latents.shape
    if recipe.crop == "aligned":
        masks = np.stack([aligned_mask(height, width)] * len(rows))
    else:
        masks = np.stack([_hull(points, recipe.image_px, height, width) for points in landmarks])
    vectors = np.array([row["face_embeddings"][0] for row in rows], np.float32)
    return {
        "latents": latents.half(),
        "identity": torch.from_numpy(vectors),
        "landmarks": torch.from_numpy(np.stack(landmarks).astype(np.float32)),
        "mask": torch.from_numpy(masks).half(),
    }


def _pictures(
    rows: list[dict[str, Any]], recipe: PrepareRecipe
) -> tuple[list[RGB], list[np.ndarray]]:
    """Cut the training picture of every row, and say where its landmarks lie in it."""
    pictures: list[RGB] = []
    landmarks: list[np.ndarray] = []
    for row in rows:
        if not row["num_faces"]:
            continue
        decoded = decode(row["blob"], work_px=4096)
        points = np.array(row["face_landmarks_px"][0], np.float32).reshape(5, 2)
        points = points * (decoded.pixels.shape[1] / decoded.width_px)
        if recipe.crop == "aligned":
            chips = load_embedder("dlib", "", "cpu").align(decoded.pixels, points[None])
            pictures += aligned(chips, recipe.image_px)
            landmarks.append(aligned_landmarks_px(recipe.image_px))
        else:
            box = np.array(row["face_boxes_px"][0], np.float32)
            box = box * (decoded.pixels.shape[1] / decoded.width_px)
            cut, scale, left, top = square(decoded.pixels, box, recipe.image_px)
            pictures.append(cut)
            landmarks.append((points - [left, top]) * scale)
    return pictures, landmarks


def _hull(points: np.ndarray, image_px: int, height: int, width: int) -> np.ndarray:
    """Draw an ellipse around five landmarks: about the face, from brow to chin."""
    low, high = points.min(0), points.max(0)
    centre, reach = (low + high) / 2, np.maximum((high - low), 1.0)
    y, x = np.mgrid[:height, :width].astype(np.float32) + 0.5
    across = (x * image_px / width - centre[0]) / reach[0]
    down = (y * image_px / height - centre[1]) / (1.6 * max(reach))
    return np.asarray(across**2 + down**2 <= 1, dtype=np.float32)


def _tensor(pictures: list[RGB]) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def _finish(recipe: PrepareRecipe, corpus: str, codec: str, folder: Path, total: int) -> Prepared:
    """Write the index and, last, what the features are."""
    from safetensors import safe_open

    index: list[dict[str, object]] = []
    vectors, embedder, shape = [], "", (0, 0, 0)
    for path in sorted((folder / "shards").glob("*.safetensors")):
        with safe_open(path, framework="pt") as held:
            about = json.loads(held.metadata()["rows"])
            if not about["ids"]:
                continue
            vectors.append(held.get_tensor("identity").numpy())
            shape, embedder = tuple(held.get_slice("latents").get_shape()[1:]), about["embedder"]
        number = int(path.stem.removeprefix("shard-"))
        places = zip(about["ids"], about["people"], about["captions"], strict=True)
        index += [
            {"id": id_, "person": person, "caption": caption, "shard": number, "row": row}
            for row, (id_, person, caption) in enumerate(places)
        ]
    if not index:
        raise UnreadableSource(recipe.corpus, "nobody in it has a face", "Curate it differently.")
    every = np.concatenate(vectors)
    write_index(folder, index)
    Features(
        corpus=corpus,
        image_px=recipe.image_px,
        codec=codec,
        latent_shape=shape,
        text_shape=(0, 0),
        identity_dim=every.shape[1],
        embedder=embedder,
        backend="dlib" if embedder.startswith("dlib") else "insightface",
        identity_mean=tuple(every.mean(0).tolist()),
        identity_std=tuple((every.std(0) + 1e-6).tolist()),
    ).write(folder)
    people = len({row["person"] for row in index})
    return Prepared(str(folder), len(index), people, total - len(index))
