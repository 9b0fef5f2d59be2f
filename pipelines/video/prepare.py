"""From curated clips to training features: latents, identity, text, faces, landmarks, masks, flow.

One task per few clips writes one shard, whole or not at all, so a crash costs the shards that were
under way and nothing is prepared twice.
"""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from safetensors import safe_open

from infra.cluster import cluster
from infra.configuration import digest, to_dict
from infra.errors import UnreadableSource
from infra.storage import open_folder
from pipelines.features.shards import shard_path
from pipelines.parallel import spread
from pipelines.prepare import require_gpus, write_all
from pipelines.progress import Reporter
from pipelines.video.exported import CLIPS_FILE, Clip, Pair, read_clips, read_pairs
from pipelines.video.prepare_recipes import VideoPrepareRecipe, sides_px
from pipelines.video.prepare_samples import backend_of
from pipelines.video.prepare_shards import Plan, several, write_empty, write_shard
from training.features import EMPTY_FILE, PAIRS_FILE, Features, write_index, write_pairs
from training.nets.references import CODEC_PARTS, IMAGE_PARTS, TEXT_PARTS, weights_version
from training.video.windows import LEFT

_LONGER = "Curate longer clips and tracks, or lower --frames."
REASONS = {
    "too_small": ("that would be enlarged too much", "Lower --sizes, or raise --max-enlarge."),
    "too_short": (LEFT["too_short"], "Lower --frames, or raise --fps."),
    "too_few_fps": (LEFT["too_few_fps"], "Lower --fps."),
    "no_track": (LEFT["no_track"], _LONGER),
    "no_mask": (LEFT["no_mask"], _LONGER),
    "several_people": (LEFT["several_people"], "Leave out --alone."),
}
"""Which clips and windows are left out, and the cure."""


@dataclass(frozen=True)
class PreparedVideos:
    """How it ended."""

    path: str
    samples: int
    people: int
    clips: int
    """Clips that have a sample."""
    left_out: dict[str, int]
    """Clips and windows that were left out, by reason."""
    still: int
    """Samples in which nothing of the person moves."""
    cut_captions: int
    """Samples whose captions are longer than the text encoder reads."""
    pairs: int
    """Pairs of samples: whose face is shown, and what is drawn from it."""
    alone: int
    """Samples that no other of their person can be shown for."""


def prepare_videos(
    recipe: VideoPrepareRecipe,
    out: str,
    console: Console,
    address: str = "",
    gpus_per_task: float = 0.0,
) -> PreparedVideos:
    """Write the features of curated clips into ``out``; go on where an earlier try stopped.

    Raises:
        UnreadableSource: The corpus is no finished export of videos, or nothing in it can be
            learnt from.
        BadInput: Weights cannot be had, the codec does not take so many frames, no GPU.
    """
    export, clips = _corpus(recipe)
    corpus = digest([[clip.id, clip.sha256] for clip in clips])
    weights = _weights(recipe)
    folder = Path(out)
    _begin(folder, recipe, digest(to_dict(recipe), corpus, weights))
    device = "cuda" if gpus_per_task else "cpu"
    plan = Plan(recipe, export, folder.absolute(), tuple(sorted(weights.items())), device)
    each = recipe.batch_clips
    work = [(n, clips[at : at + each]) for n, at in enumerate(range(0, len(clips), each))]
    todo = [one for one in work if not shard_path(folder, one[0]).exists()]
    reporter, before = Reporter(console), len(clips) - sum(len(some) for _, some in todo)
    with cluster(address) as cpus, reporter.job("prepare", len(clips), before):
        require_gpus(gpus_per_task)
        encoded = recipe.text_encoder or recipe.image_encoder
        if encoded and not (folder / EMPTY_FILE).exists():
            list(spread(write_empty, [EMPTY_FILE], plan, at_once=1, num_gpus=gpus_per_task))
        write_all(write_shard, todo, plan, reporter, at_once=cpus, num_gpus=gpus_per_task)
    return _finish(plan, corpus, clips)


def _corpus(recipe: VideoPrepareRecipe) -> tuple[str, list[Clip]]:
    """Find the export, and its clips."""
    if not recipe.corpus:
        raise UnreadableSource("", "no corpus is named", "Give --corpus, a run of `visage curate`.")
    home = open_folder(recipe.corpus)
    home = home if home.exists(CLIPS_FILE) else home / "export"
    clips = read_clips(home)
    if not clips:
        cure = "Its report.html says why; curate it differently."
        raise UnreadableSource(recipe.corpus, "that run kept no clip", cure)
    if (embedders := sorted({clip.embedder for clip in clips})) and len(embedders) > 1:
        raise UnreadableSource(
            recipe.corpus,
            f"its identity vectors are of several encoders: {', '.join(embedders)}",
            "Vectors of two encoders cannot be compared: curate all of it with one.",
        )
    return str(home), clips


def _weights(recipe: VideoPrepareRecipe) -> dict[str, str]:
    """Say which weights stand behind the references of a recipe, now."""
    references = {
        "codec": (recipe.codec, CODEC_PARTS),
        "text_encoder": (recipe.text_encoder, TEXT_PARTS),
        "image_encoder": (recipe.image_encoder, IMAGE_PARTS),
        "face_encoder": (recipe.face_encoder, IMAGE_PARTS),
    }
    return {n: weights_version(ref, parts) for n, (ref, parts) in references.items() if ref}


def _begin(folder: Path, recipe: VideoPrepareRecipe, fingerprint: str) -> None:
    """Remove what another recipe or corpus left, and say what this one is."""
    marker = folder / "prepare.json"
    before = json.loads(marker.read_text()) if marker.exists() else {}
    if before.get("fingerprint") != fingerprint:
        for name in ("features.json", "index.parquet", PAIRS_FILE, EMPTY_FILE):
            (folder / name).unlink(missing_ok=True)
        for path in (folder / "shards").glob("*"):
            path.unlink()
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    about = {"fingerprint": fingerprint, "recipe": to_dict(recipe)}
    beside = folder / "prepare.json.part"
    beside.write_text(json.dumps(about, indent=2) + "\n")
    beside.replace(marker)


def _finish(plan: Plan, corpus: str, clips: list[Clip]) -> PreparedVideos:
    """Write the index, the pairs and, last, what the features are."""
    rows: list[dict[str, Any]] = []
    shapes: dict[str, tuple[int, ...]] = {}
    vectors: list[np.ndarray] = []
    counts: Counter[str] = Counter()
    for path in sorted((plan.folder / "shards").glob("*.safetensors")):
        with safe_open(path, framework="np") as held:
            about = json.loads(held.metadata()["rows"])
            counts.update(about["counts"])
            if about["rows"]:
                vectors.append(held.get_tensor("identity"))
                shapes |= {n: tuple(held.get_slice(n).get_shape()[1:]) for n in held.keys()}  # noqa: SIM118
        shard = int(path.stem.removeprefix("shard-"))
        rows += [row | {"shard": shard, "row": at} for at, row in enumerate(about["rows"])]
    if not rows:
        raise _nothing_usable(plan.recipe, counts)
    left = () if several(plan.recipe) else ("bucket", "place")
    write_index(plan.folder, [{k: v for k, v in r.items() if k not in left} for r in rows])
    pairs = sample_pairs(rows, read_pairs(open_folder(plan.export)))
    write_pairs(plan.folder, pairs)
    features = _features(plan, corpus, clips[0], np.concatenate(vectors), shapes)
    replace(features, pairs=digest(pairs)[:16] if pairs else "").write(plan.folder)
    of_person = Counter(row["person"] for row in rows)
    return PreparedVideos(
        path=str(plan.folder),
        samples=len(rows),
        people=len(of_person),
        clips=len({row["clip"] for row in rows}),
        left_out={reason: counts[reason] for reason in REASONS if counts[reason]},
        still=counts["still"],
        cut_captions=counts["cut_captions"],
        pairs=len(pairs),
        alone=sum(of_person[row["person"]] == 1 for row in rows),
    )


def sample_pairs(rows: list[dict[str, Any]], pairs: list[Pair]) -> list[tuple[str, str]]:
    """Say which samples show the face of which: by what curation paired, moment by moment.

    A sample whose clip was paired is drawn from the samples that hold the frames it was paired
    with, and never from one that shares frames with it. Others are not in the list: training then
    takes any other of the same person.

    Returns:
        Ids of reference and target, sorted.
    """
    of_clip: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        of_clip[row["clip"]].append(row)
    found: set[tuple[str, str]] = set()
    for pair in pairs:
        for target in of_clip[pair.target_clip]:
            if not (target["start"] < pair.target_end_frame
                    and target["end"] > pair.target_start_frame):  # fmt: skip
                continue
            for shown in of_clip[pair.reference_clip]:
                holds = shown["start"] <= pair.reference_frame < shown["end"]
                apart = shown["clip"] != target["clip"] or (
                    shown["end"] <= target["start"] or target["end"] <= shown["start"]
                )
                if holds and apart and shown["person"] == target["person"]:
                    found.add((shown["id"], target["id"]))
    return sorted(found)


def _nothing_usable(recipe: VideoPrepareRecipe, counts: Counter[str]) -> UnreadableSource:
    """Say why nothing of a corpus can be learnt from, and the cure for most of it."""
    found = sorted(((counts[name], name) for name in REASONS if counts[name]), reverse=True)
    said = ", ".join(f"{count:,} clips {REASONS[name][0]}" for count, name in found)
    cure = REASONS[found[0][1]][1] if found else "Curate it differently."
    return UnreadableSource(
        recipe.corpus, f"nothing can be learnt from: {said or 'no clips'}", cure
    )


def _features(
    plan: Plan,
    corpus: str,
    clip: Clip,
    vectors: np.ndarray,
    shapes: dict[str, tuple[int, ...]],
) -> Features:
    """Describe the features."""
    recipe = plan.recipe
    buckets = _latent_shapes(recipe, shapes)
    channels, frames, rows, columns = buckets[0]
    width_px, height_px = sides_px(recipe.sizes[0])
    text, image = shapes.get("text", (0, 0)), shapes.get("image", (0, 0))
    states = shapes.get("face_states", (0, 0, 0))
    return Features(
        corpus=corpus,
        image_px=round((width_px * height_px) ** 0.5),
        codec=recipe.codec,
        latent_shape=(channels, rows, columns),
        text_shape=(text[0], text[1]),
        identity_dim=vectors.shape[1],
        embedder=clip.embedder,
        backend=backend_of(clip),
        identity_mean=tuple(vectors.mean(0).tolist()),
        identity_std=tuple((vectors.std(0) + 1e-6).tolist()),
        text_encoder=recipe.text_encoder,
        image_shape=(image[0], image[1]),
        image_encoder=recipe.image_encoder,
        face_states_shape=(states[0], states[1], states[2]),
        face_pooled_dim=shapes.get("face_pooled", (0,))[0],
        face_encoder=recipe.face_encoder,
        latent_shapes=buckets if several(recipe) else (),
        frames=frames,
        clip_frames=recipe.frames,
        fps=recipe.fps,
        weights=dict(plan.weights),
        preparation=digest(to_dict(replace(recipe, corpus="")), corpus, dict(plan.weights)),
    )


def _latent_shapes(
    recipe: VideoPrepareRecipe, shapes: dict[str, tuple[int, ...]]
) -> tuple[tuple[int, ...], ...]:
    """Return the latent shape of every bucket, also of those that no clip went to."""
    found = {name: shape for name, shape in shapes.items() if name.split(".")[0] == "latents"}
    name, (channels, _, rows, columns) = next(iter(sorted(found.items())))
    sizes = [sides_px(size) for size in recipe.sizes]
    width_px, height_px = sizes[int(name.partition(".")[2] or 0) % len(sizes)]
    frames = max(shape[1] for shape in found.values())
    return tuple(
        (channels, length, height * rows // height_px, width * columns // width_px)
        for length in (frames, *([1] if recipe.stills else []))
        for width, height in sizes
    )
