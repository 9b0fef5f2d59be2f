"""From all shards of features to the folder's index and what it says of itself."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open

from infra.configuration import digest, to_dict
from infra.errors import UnreadableSource
from pipelines.features.corpus import Corpus
from pipelines.features.pairs import Pairs
from pipelines.features.pictures import backend_of
from pipelines.features.recipes import PrepareRecipe
from pipelines.features.shards import Plan, nothing_usable
from stages.people.clusters import find_people
from stages.people.identify import limits_of
from stages.people.settings import PeopleSettings
from stages.people.thresholds import grouping_points
from training.aspects import aspect_sizes
from training.features import Features, write_index, write_pairs

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Prepared:
    """How it ended."""

    path: str
    samples: int
    people: int
    left_out: int
    """Corpus rows without a face, which have no identity to learn."""
    nobody: int
    """Rows left out because their main face is of no identity."""
    bad_embedding: int
    """Rows left out because their identity vector holds NaN or infinity."""
    too_small: int
    """Rows left out because they would be enlarged more than the recipe allows."""
    enlarged: int
    """Samples whose pictures were enlarged at all."""
    cut_captions: int
    """Samples whose captions are longer than the text encoder reads."""
    pairs: int
    """Pairs that are used: both photographs are samples, of one person."""
    paired: int
    """Samples that are drawn from a photograph they are paired with."""


@dataclass(frozen=True)
class _Shards:
    """What all shards hold together."""

    index: list[dict[str, Any]]
    """One row per sample: what the index says, and its label and identity."""
    vectors: Float32[np.ndarray, "samples dim"]
    shapes: dict[str, Shape]
    """Of one sample, by feature."""
    counts: Counter[str]


def finish(plan: Plan, corpus: Corpus, embedder: str, pairs: Pairs) -> Prepared:
    """Write the index, the pairs and, last, what the features are.

    Raises:
        UnreadableSource: No picture can be learnt from, none of the pairs is of these, or a shard
            of an earlier try is damaged.
    """
    recipe, shards = plan.recipe, _read(plan)
    if not shards.index:
        raise nothing_usable(recipe, shards.counts)
    people = _people(shards, recipe, embedder)
    several = len(aspect_sizes(recipe.aspects, recipe.image_px)) > 1
    told = any(row["caption_parts"] for row in shards.index)
    left = ("label", "identity", *(() if several else ("bucket", "place")),
            *(() if told else ("caption_parts",)))  # fmt: skip
    index = [
        {"id": row["id"], "person": person, **{k: v for k, v in row.items() if k not in left}}
        for row, person in zip(shards.index, people, strict=True)
    ]
    used = pairs.among({str(row["id"]): str(row["person"]) for row in index}, recipe.pairs)
    write_index(plan.folder, index)
    write_pairs(plan.folder, used)
    replace(_features(plan, corpus, embedder, shards), pairs=pairs.digest).write(plan.folder)
    counts = shards.counts
    return Prepared(
        path=str(plan.folder),
        samples=len(index),
        people=len(set(people)),
        left_out=counts["faceless"],
        nobody=counts["nobody"],
        bad_embedding=counts["bad_embedding"],
        too_small=counts["too_small"],
        enlarged=counts["enlarged"],
        cut_captions=counts["cut_captions"],
        pairs=len(used),
        paired=len({target for _, target in used}),
    )


def _read(plan: Plan) -> _Shards:
    """Read what every shard says of its rows."""
    index: list[dict[str, Any]] = []
    vectors: list[Float32[np.ndarray, "samples dim"]] = []
    shapes: dict[str, Shape] = {}
    counts: Counter[str] = Counter()
    for path in sorted((plan.folder / "shards").glob("*.safetensors")):
        try:
            with safe_open(path, framework="np") as held:
                about = json.loads(held.metadata()["rows"])
                counts.update(about["counts"])
                if not about["ids"]:
                    continue
                vectors.append(held.get_tensor("identity"))
                shapes |= {n: tuple(held.get_slice(n).get_shape()[1:]) for n in held.keys()}  # noqa: SIM118
        except (SafetensorError, TypeError, KeyError) as error:
            why, cure = f"it is damaged: {error}", "Delete it, then give the same command again."
            raise UnreadableSource(str(path), why, cure) from None
        seen: Counter[int] = Counter()
        number = int(path.stem.removeprefix("shard-"))
        names = ("ids", "labels", "identities", "captions", "parts", "buckets")
        columns = zip(*(about[name] for name in names), strict=True)
        for row, (id_, label, identity, caption, parts, bucket) in enumerate(columns):
            place = {"shard": number, "row": row, "bucket": bucket, "place": seen[bucket]}
            who = {"id": id_, "label": label, "identity": identity}
            index.append(who | {"caption": caption, "caption_parts": parts} | place)
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
    if recipe.people == "identity":
        return [str(row["identity"]) for row in shards.index]
    limits = PeopleSettings(pair_below=recipe.pair_below)
    points = limits_of(limits, grouping_points(backend_of(embedder)))
    return find_people(ids, shards.vectors, points, min_photos=1).identity


def _features(plan: Plan, corpus: Corpus, embedder: str, shards: _Shards) -> Features:
    """Describe the features."""
    recipe, shapes = plan.recipe, shards.shapes
    latents = _latent_shapes(recipe, shapes)
    text = shapes.get("text", (0, 0))
    image = shapes.get("image", (0, 0))
    return Features(
        corpus=corpus.digest,
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
        # Not where the corpus lay, nor its pairs, which have a digest of their own.
        preparation=digest(
            to_dict(replace(recipe, corpus="", pairs="")), corpus.digest, dict(plan.weights)
        ),
        licences=corpus.licences,
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
