"""From all shards of features to the folder's index and what it says of itself."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32
from safetensors import safe_open

from infra.errors import UnreadableSource
from pipelines.prepare_pictures import backend_of
from pipelines.prepare_recipes import PrepareRecipe
from pipelines.prepare_shards import Plan
from stages.models.faces import Embedder
from training.aspects import aspect_sizes
from training.features import Features, write_index
from training.people import group_people

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Prepared:
    """How it ended."""

    path: str
    samples: int
    people: int
    left_out: int
    """Corpus rows without a face, which have no identity to learn."""
    too_small: int
    """Rows left out because they would be enlarged more than the recipe allows."""
    enlarged: int
    """Samples whose pictures were enlarged at all."""
    cut_captions: int
    """Samples whose captions are longer than the text encoder reads."""


@dataclass(frozen=True)
class _Shards:
    """What all shards hold together."""

    index: list[dict[str, Any]]
    """One row per sample: what the index says, and its label."""
    vectors: Float32[np.ndarray, "samples dim"]
    shapes: dict[str, Shape]
    """Of one sample, by feature."""
    counts: Counter[str]


def finish(plan: Plan, corpus: str, embedder: str) -> Prepared:
    """Write the index and, last, what the features are.

    Raises:
        UnreadableSource: No picture was large enough.
    """
    recipe, shards = plan.recipe, _read(plan)
    if not shards.index:
        raise UnreadableSource(
            recipe.corpus,
            f"all {shards.counts['too_small']} pictures would be enlarged more than "
            f"{recipe.max_enlarge:g} times",
            "Lower --image-px, or raise --max-enlarge.",
        )
    people = _people(shards, recipe, embedder)
    several = len(aspect_sizes(recipe.aspects, recipe.image_px)) > 1
    left = ("label", *(() if several else ("bucket", "place")))
    index = [
        {"id": row["id"], "person": person, **{k: v for k, v in row.items() if k not in left}}
        for row, person in zip(shards.index, people, strict=True)
    ]
    write_index(plan.folder, index)
    _features(plan, corpus, embedder, shards).write(plan.folder)
    counts = shards.counts
    return Prepared(
        path=str(plan.folder),
        samples=len(index),
        people=len(set(people)),
        left_out=counts["faceless"],
        too_small=counts["too_small"],
        enlarged=counts["enlarged"],
        cut_captions=counts["cut_captions"],
    )


def _read(plan: Plan) -> _Shards:
    """Read what every shard says of its rows."""
    index: list[dict[str, Any]] = []
    vectors: list[Float32[np.ndarray, "samples dim"]] = []
    shapes: dict[str, Shape] = {}
    counts: Counter[str] = Counter()
    for path in sorted((plan.folder / "shards").glob("*.safetensors")):
        with safe_open(path, framework="np") as held:
            about = json.loads(held.metadata()["rows"])
            counts.update(about["counts"])
            if not about["ids"]:
                continue
            vectors.append(held.get_tensor("identity"))
            shapes |= {n: tuple(held.get_slice(n).get_shape()[1:]) for n in held.keys()}  # noqa: SIM118
        seen: Counter[int] = Counter()
        number = int(path.stem.removeprefix("shard-"))
        columns = zip(
            about["ids"], about["labels"], about["captions"], about["buckets"], strict=True
        )
        for row, (id_, label, caption, bucket) in enumerate(columns):
            place = {"shard": number, "row": row, "bucket": bucket, "place": seen[bucket]}
            index.append({"id": id_, "label": label, "caption": caption, **place})
            seen[bucket] += 1
    every = np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32)
    return _Shards(index, every, shapes, counts)


def _people(shards: _Shards, recipe: PrepareRecipe, embedder: str) -> list[str]:
    """Name whose photograph each sample is; without a label everybody is somebody else."""
    ids = [str(row["id"]) for row in shards.index]
    if recipe.people == "self":
        return ids
    if recipe.people == "label":
        labels = [row["label"] for row in shards.index]
        return [label or id_ for label, id_ in zip(labels, ids, strict=True)]
    kind = _encoder(embedder)
    # In the order of ids, so that the groups do not depend on how rows are laid out in files.
    order = np.argsort(np.array(ids))
    below = recipe.same_person_below or kind.same_person_below
    groups = group_people(shards.vectors[order], below, kind.metric)
    people = list(ids)
    for place, first in enumerate(groups.tolist()):
        people[order[place]] = ids[order[first]]
    return people


def _encoder(embedder: str) -> type[Embedder]:
    """Return the class of an encoder, which knows how its vectors are compared."""
    if backend_of(embedder) == "dlib":
        from stages.models.dlib_faces import DlibEmbedder

        return DlibEmbedder
    from stages.models.insightface_faces import InsightEmbedder

    return InsightEmbedder


def _features(plan: Plan, corpus: str, embedder: str, shards: _Shards) -> Features:
    """Describe the features."""
    recipe, shapes = plan.recipe, shards.shapes
    latents = _latent_shapes(recipe, shapes)
    text = shapes.get("text", (0, 0))
    image = shapes.get("image", (0, 0))
    return Features(
        corpus=corpus,
        image_px=recipe.image_px,
        codec=plan.codec,
        latent_shape=latents[0],
        text_shape=(text[0], text[1]),
        identity_dim=shards.vectors.shape[1],
        embedder=embedder,
        backend=backend_of(embedder),
        identity_mean=tuple(shards.vectors.mean(0).tolist()),
        identity_std=tuple((shards.vectors.std(0) + 1e-6).tolist()),
        pooled_dim=shapes.get("pooled", (0,))[0],
        text_encoder=recipe.text_encoder,
        image_shape=(image[0], image[1]),
        image_encoder=recipe.image_encoder,
        latent_shapes=latents if len(latents) > 1 else (),
        weights=dict(plan.weights),
    )


def _latent_shapes(
    recipe: PrepareRecipe, shapes: dict[str, Shape]
) -> tuple[tuple[int, int, int], ...]:
    """Return the latent shape of every bucket, also of those that no picture went to."""
    sizes = aspect_sizes(recipe.aspects, recipe.image_px)
    name, shape = next(item for item in sorted(shapes.items()) if item[0].startswith("latents"))
    width_px, height_px = sizes[int(name.partition(".")[2] or 0)]
    channels, rows, columns = shape
    return tuple(
        (channels, height * rows // height_px, width * columns // width_px)
        for width, height in sizes
    )
