"""From an exported corpus to training features: latents, identity, text, faces, landmarks, masks.

One task per exported file writes one shard, whole or not at all, so a crash costs the shards that
were under way and nothing is prepared twice.

These are Ray tasks (``pipelines.parallel.spread``), where the project's design says a Ray Data job,
as curation is. On purpose: each exported file becomes exactly one shard, found again by its number,
and no rows travel between processes. Blocks of Ray Data would cross files, so that a shard would
be of no file in particular and a second try could not tell what is missing.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pyarrow.parquet as pq
from rich.console import Console

from infra.cluster import cluster
from infra.configuration import digest, to_dict
from infra.errors import BadValue, UnreadableSource
from pipelines.exported import export_files
from pipelines.features.captions import chosen_caption
from pipelines.features.corpus import describe
from pipelines.features.finish import Prepared, finish
from pipelines.features.pairs import read_pairs
from pipelines.features.pictures import Cut, backend_of, cut
from pipelines.features.recipes import PrepareRecipe
from pipelines.features.shards import (
    Plan,
    nothing_usable,
    pixels,
    shard_path,
    usable,
    write_empty,
    write_shard,
)
from pipelines.parallel import spread
from pipelines.progress import Reporter
from training.features import EMPTY_FILE, PAIRS_FILE
from training.nets.codec import BESIDE, CODEC_FILE, PatchCodec
from training.nets.references import CODEC_PARTS, IMAGE_PARTS, TEXT_PARTS, weights_version

Work = TypeVar("Work")
Shared = TypeVar("Shared")

FIT_ROWS = 1024
"""Pictures that the patch code is fitted to."""


def prepare(
    recipe: PrepareRecipe,
    out: str,
    console: Console,
    address: str = "",
    gpus_per_task: float = 0.0,
) -> Prepared:
    """Write the features of a corpus into ``out``; go on where an earlier try stopped.

    Weights of ``file:`` references count by their bytes, and a corpus by what its rows say: altered
    ones are prepared with anew. Other pairs change which photographs are shown for which, and cost
    no feature.

    Args:
        recipe: What to make.
        out: Folder for the features.
        console: Where progress is shown.
        address: Of a Ray cluster; empty: as ``infra.cluster.cluster`` finds one.
        gpus_per_task: GPUs that each task takes, 0.25 for four tasks on one; 0: all on CPUs.

    Raises:
        UnreadableSource: The corpus is no finished export, nothing in it can be learnt from, it
            has no captions of the wanted kind, or the pairs are none, or not its own.
        BadInput: The corpus mixes identity encoders, a recipe's value does not fit it, weights
            cannot be had, or there is no GPU.
    """
    files = _corpus_files(recipe)
    embedder = _embedder(files, recipe)
    recipe = replace(recipe, caption=chosen_caption(files, recipe))
    pairs = read_pairs(recipe.pairs)
    corpus = describe(files)
    folder = Path(out)
    weights = _weights(recipe)
    wanted = digest(to_dict(replace(recipe, pairs="")), corpus.digest, weights)
    marker = folder / "prepare.json"
    before = json.loads(marker.read_text()) if marker.exists() else {}
    if before.get("fingerprint") != wanted:
        _clear(folder)
    elif before.get("pairs") != pairs.digest:
        (folder / "features.json").unlink(missing_ok=True)
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    about = {"fingerprint": wanted, "recipe": to_dict(recipe), "corpus": corpus.digest}
    beside = folder / "prepare.json.part"
    beside.write_text(json.dumps(about | {"pairs": pairs.digest}, indent=2) + "\n")
    beside.replace(marker)
    codec = recipe.codec
    if codec == "patches":
        codec = _fit(recipe, folder, files)
        weights["codec"] = weights_version(f"file:{folder / CODEC_FILE}", ())
    device = "cuda" if gpus_per_task else "cpu"
    plan = Plan(recipe, folder.absolute(), codec, tuple(sorted(weights.items())), device)

    reporter, total = Reporter(console), sum(pq.read_metadata(f).num_rows for f in files)
    todo = [(n, f.absolute()) for n, f in enumerate(files) if not shard_path(folder, n).exists()]
    before = total - sum(pq.read_metadata(f).num_rows for _, f in todo)
    encoded = bool(recipe.text_encoder or recipe.image_encoder)
    with cluster(address) as cpus, reporter.job("prepare", total, before):
        require_gpus(gpus_per_task)
        if encoded and not (folder / EMPTY_FILE).exists():
            list(spread(write_empty, [EMPTY_FILE], plan, at_once=1, num_gpus=gpus_per_task))
        write_all(write_shard, todo, plan, reporter, at_once=cpus, num_gpus=gpus_per_task)
    return replace(finish(plan, corpus, embedder, pairs), path=out)


def write_all(
    write: Callable[[Work, Shared], int],
    todo: Sequence[Work],
    plan: Shared,
    reporter: Reporter,
    *,
    at_once: int,
    num_gpus: float,
) -> None:
    """Write the shards that are not there, one task each, and say how many rows are done."""
    done = 0
    for rows in spread(write, todo, plan, at_once=at_once, num_gpus=num_gpus):
        done += rows
        reporter.rows(done)


def _corpus_files(recipe: PrepareRecipe) -> list[Path]:
    """Find the Parquet files of an export."""
    home, files = export_files(recipe.corpus, "identity" if recipe.people == "identity" else "")
    if not files:
        cure = "Its report.html says why; curate it differently."
        raise UnreadableSource(recipe.corpus, "that run kept no picture", cure)
    if not home.is_local:
        raise UnreadableSource(recipe.corpus, "it is in an object store", "Copy it to a folder.")
    return [Path(path) for path in files]


def _embedder(files: list[Path], recipe: PrepareRecipe) -> str:
    """Find the one identity encoder of a corpus."""
    found: set[str] = set()
    for path in files:
        table = pq.read_table(path, columns=["num_faces", "embedder"])
        found |= {row["embedder"] for row in table.to_pylist() if row["num_faces"]}
    if not found:
        raise UnreadableSource(recipe.corpus, "nobody in it has a face", "Curate it differently.")
    if len(found) > 1:
        raise UnreadableSource(
            recipe.corpus,
            f"its identity vectors are of several encoders: {', '.join(sorted(found))}",
            "Vectors of two encoders cannot be compared: curate all of it with one.",
        )
    (embedder,) = found
    if recipe.crop == "aligned" and backend_of(embedder) != "dlib":
        raise BadValue(
            "crop", recipe.crop, f"it needs dlib's landmarks, and the corpus is of {embedder!r}."
        )
    return embedder


def _weights(recipe: PrepareRecipe) -> dict[str, str]:
    """Say which weights stand behind the references of a recipe, now."""
    references = {
        "codec": ("" if recipe.codec == "patches" else recipe.codec, CODEC_PARTS),
        "text_encoder": (recipe.text_encoder, TEXT_PARTS),
        "image_encoder": (recipe.image_encoder, IMAGE_PARTS),
    }
    return {
        name: weights_version(reference, parts)
        for name, (reference, parts) in references.items()
        if reference
    }


def _clear(folder: Path) -> None:
    """Remove what another recipe or corpus left."""
    for name in ("features.json", "index.parquet", PAIRS_FILE, CODEC_FILE, EMPTY_FILE):
        (folder / name).unlink(missing_ok=True)
    for path in (folder / "shards").glob("*"):
        path.unlink()


def _fit(recipe: PrepareRecipe, folder: Path, files: list[Path]) -> str:
    """Fit the patch code to the corpus and write it, if it is not there; return its reference."""
    if not (folder / CODEC_FILE).exists():
        cuts: list[Cut] = []
        counts: Counter[str] = Counter()
        for path in files:
            rows = pq.read_table(path).to_pylist()
            cuts += [cut(row, recipe) for row in usable(rows, recipe, counts)]
            if len(cuts) >= FIT_ROWS:
                break
        if not cuts:
            raise nothing_usable(recipe, counts)
        codec = PatchCodec()
        codec.fit(pixels([each.picture for each in cuts[:FIT_ROWS]]))
        beside = folder / f"{CODEC_FILE}.part"
        codec.save(beside)
        beside.replace(folder / CODEC_FILE)
    return BESIDE


def require_gpus(per_task: float) -> None:
    """Refuse what Ray would wait for without end."""
    import ray

    there = ray.cluster_resources().get("GPU", 0.0)
    if per_task > there:
        raise BadValue("gpus_per_task", per_task, f"the cluster has {there:g} GPUs; give 0.")
