"""One exported file to one shard of features: what a worker of ``visage prepare`` does."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from infra.errors import UnreadableSource
from pipelines.features.captions import caption_text
from pipelines.features.pictures import Cut, Row, bucket_of, cut, enlargement, face_mask
from pipelines.features.recipes import PrepareRecipe
from stages.types import RGB
from training.aspects import aspect_sizes
from training.features import EMPTY_FILE, SHAPED
from training.nets.codec import Codec, load_codec

if TYPE_CHECKING:
    from training.nets.text import AnyText
    from training.nets.vision import ImageEncoder


@dataclass(frozen=True)
class Plan:
    """What every worker is told."""

    recipe: PrepareRecipe
    folder: Path
    """Where the features go."""
    codec: str
    weights: tuple[tuple[str, str], ...]
    """Version of each model's weights: a worker that outlives a change loads them anew."""
    device: str = "cpu"


@dataclass(frozen=True)
class Models:
    """What turns pictures and captions into features."""

    codec: Codec
    text: "AnyText | None"
    image: "ImageEncoder | None"


@lru_cache(maxsize=1)
def load_models(plan: Plan) -> Models:
    """Load the models of a plan, once per worker process."""
    recipe, device = plan.recipe, plan.device
    codec = load_codec(plan.codec, plan.folder)
    if isinstance(codec, nn.Module):
        codec.to(device)
    # Encoders are imported where they are asked for: transformers takes seconds.
    text = image = None
    if recipe.text_encoder:
        from training.nets.text import load_text_encoder

        text = load_text_encoder(recipe.text_encoder, device=device)
    if recipe.image_encoder:
        from training.nets.vision import load_image_encoder

        image = load_image_encoder(recipe.image_encoder, device=device)
    return Models(codec, text, image)


def shard_path(folder: Path, number: int) -> Path:
    """Return where the shard of an exported file is."""
    return folder / f"shards/shard-{number:05d}.safetensors"


def write_empty(part: str, plan: Plan) -> str:  # noqa: ARG001 - one task, so one item
    """Write what the encoders say of the empty prompt and the empty picture."""
    torch.set_num_threads(1)
    models, tensors = load_models(plan), {}
    if models.text:
        states, pooled = models.text.encode([""])
        tensors = {"text": states[0]} | ({} if pooled is None else {"pooled": pooled[0]})
    if models.image:
        tensors["image"] = models.image.empty()
    # As the rows are kept, so that an empty caption and dropped text are one.
    save_shard({name: t.half() for name, t in tensors.items()}, {}, plan.folder / EMPTY_FILE)
    return EMPTY_FILE


def write_shard(place: tuple[int, Path], plan: Plan) -> int:
    """Prepare one exported file; return how many rows it has."""
    number, path = place
    # One task per CPU: threads inside each would only contend.
    torch.set_num_threads(1)
    recipe, every = plan.recipe, pq.read_table(path).to_pylist()
    counts: Counter[str] = Counter()
    rows = sorted(usable(every, recipe, counts), key=lambda row: bucket_of(row, recipe))
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for chunk in _chunks(rows, recipe):
        for name, tensor in _features(chunk, plan, counts).items():
            parts[name].append(tensor)
    tensors = {name: torch.cat(each).contiguous() for name, each in parts.items()}
    about = {
        "ids": [row["id"] for row in rows],
        "labels": [row["label"] or "" for row in rows],
        "identities": [row.get("identity") or "" for row in rows],
        "captions": [caption_text(row, recipe) for row in rows],
        "parts": [row.get("caption_parts") for row in rows],
        "buckets": [bucket_of(row, recipe) for row in rows],
        "counts": dict(sorted(counts.items())),
    }
    save_shard(tensors, {"rows": json.dumps(about)}, shard_path(plan.folder, number))
    return len(every)


def usable(every: Iterable[Row], recipe: PrepareRecipe, counts: Counter[str]) -> list[Row]:
    """Return the rows that can be learnt from; count the others, and the enlarged."""
    rows: list[Row] = []
    for row in every:
        if not row["num_faces"]:
            counts["faceless"] += 1
            continue
        if not np.isfinite(row["face_embeddings"][0]).all():
            counts["bad_embedding"] += 1
            continue
        if recipe.people == "identity" and not row["identity"]:
            counts["nobody"] += 1
            continue
        times = enlargement(row, recipe)
        if recipe.max_enlarge and times > recipe.max_enlarge:
            counts["too_small"] += 1
            continue
        counts["enlarged"] += times > 1
        rows.append(row)
    return rows


def nothing_usable(recipe: PrepareRecipe, counts: Counter[str]) -> UnreadableSource:
    """Say why nothing of a corpus can be learnt from, and the cure for most of it."""
    reasons = {
        "too_small": (
            f"pictures would be enlarged more than {recipe.max_enlarge:g} times",
            "Lower --image-px, or raise --max-enlarge.",
        ),
        "nobody": (
            "photographs are of nobody",
            "Curate it with --people.min-photos 1, or give --people label.",
        ),
        "bad_embedding": ("identity vectors hold NaN or infinity", "Curate it anew."),
        "faceless": ("pictures have no face", "Curate it differently."),
    }
    found = sorted(((counts[name], name) for name in reasons if counts[name]), reverse=True)
    said = ", ".join(f"{count:,} {reasons[name][0]}" for count, name in found)
    cure = reasons[found[0][1]][1] if found else "Curate it differently."
    return UnreadableSource(recipe.corpus, f"nothing can be learnt from: {said or 'no rows'}", cure)


def _chunks(rows: list[Row], recipe: PrepareRecipe) -> Iterable[list[Row]]:
    """Divide rows that are in the order of their buckets into batches of one bucket."""
    by_bucket: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_bucket[bucket_of(row, recipe)].append(row)
    for mine in by_bucket.values():
        for start in range(0, len(mine), recipe.batch_rows):
            yield mine[start : start + recipe.batch_rows]


@torch.inference_mode()
def _features(rows: list[Row], plan: Plan, counts: Counter[str]) -> dict[str, Tensor]:
    """Make the features of some rows of one bucket."""
    models, recipe = load_models(plan), plan.recipe
    cuts = [cut(row, recipe) for row in rows]
    latents = models.codec.encode(pixels([c.picture for c in cuts]).to(plan.device)).cpu()
    height, width = latents.shape[2:]
    masks = np.stack([face_mask(each, recipe, height, width) for each in cuts])
    vectors = np.array([row["face_embeddings"][0] for row in rows], np.float32)
    features = {
        "latents": latents.half(),
        "identity": torch.from_numpy(vectors),
        "landmarks": torch.from_numpy(np.stack([c.landmarks_px for c in cuts])),
        "mask": torch.from_numpy(masks).half(),
    }
    if len(aspect_sizes(recipe.aspects, recipe.image_px)) > 1:
        bucket = bucket_of(rows[0], recipe)
        features |= {f"{name}.{bucket}": features.pop(name) for name in SHAPED}
    if models.text is not None:
        features |= _text([caption_text(row, recipe) for row in rows], models.text, counts)
    if "pooled" in features:
        features["size"] = torch.from_numpy(np.stack([c.size for c in cuts]))
    if models.image is not None:
        features["image"] = models.image.encode(_faces(cuts)).cpu().half()
    return features


def _text(captions: list[str], encoder: "AnyText", counts: Counter[str]) -> dict[str, Tensor]:
    """Encode captions, each distinct one once; count those that lose their ends."""
    prompts = sorted(set(captions))
    overlong = dict(zip(prompts, encoder.overlong(prompts), strict=True))
    counts["cut_captions"] += sum(overlong[caption] for caption in captions)
    of_rows = torch.tensor([prompts.index(caption) for caption in captions])
    states, pooled = encoder.encode(prompts)
    features = {"text": states.cpu()[of_rows].half()}
    if pooled is not None:
        features["pooled"] = pooled.cpu()[of_rows].half()
    return features


def _faces(cuts: Sequence[Cut]) -> Tensor:
    return pixels([each.face for each in cuts if each.face is not None])


def pixels(pictures: list[RGB]) -> Tensor:
    """Stack pictures of one size as RGB in 0 to 1, samples x 3 x height x width."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def save_shard(tensors: dict[str, Tensor], about: dict[str, str], target: Path) -> None:
    """Write a file of tensors, whole or not at all."""
    beside = target.with_suffix(".part")
    save_file({name: t.contiguous() for name, t in tensors.items()}, beside, about)
    beside.replace(target)
