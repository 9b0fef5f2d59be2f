"""Some curated clips to one shard of features: what a worker of ``visage prepare`` does.

Shapes: F frames of a window, T latent frames.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pipelines.features.shards import save_shard, shard_path
from pipelines.video.exported import Clip
from pipelines.video.prepare_recipes import VideoPrepareRecipe
from pipelines.video.prepare_samples import Sample, samples_of
from training.features import EMPTY_FILE, SHAPED_VIDEO
from training.nets.video_codec import CausalCodec, FrameCodec, load_video_codec
from training.video.flow import flow_maps, frames_behind, is_still

if TYPE_CHECKING:
    from training.nets.text import AnyText
    from training.nets.vision import ImageEncoder


@dataclass(frozen=True)
class Plan:
    """What every worker is told."""

    recipe: VideoPrepareRecipe
    export: str
    folder: Path
    """Where the features go."""
    weights: tuple[tuple[str, str], ...]
    """Version of each model's weights: a worker that outlives a change loads them anew."""
    device: str = "cpu"


@dataclass(frozen=True)
class Models:
    """What turns frames and captions into features."""

    codec: FrameCodec | CausalCodec
    text: "AnyText | None"
    image: "ImageEncoder | None"
    face: "ImageEncoder | None"


@lru_cache(maxsize=1)
def load_models(plan: Plan) -> Models:
    """Load the models of a plan, once per worker process."""
    recipe, device = plan.recipe, plan.device
    codec = load_video_codec(recipe.codec, plan.folder, tiled=recipe.tiled)
    codec.to(device)
    text = image = face = None
    if recipe.text_encoder:
        from training.nets.text import load_text_encoder

        text = load_text_encoder(recipe.text_encoder, device=device)
    if recipe.image_encoder or recipe.face_encoder:
        from training.nets.vision import load_image_encoder

        if recipe.image_encoder:
            image = load_image_encoder(recipe.image_encoder, device=device)
        if recipe.face_encoder:
            face = load_image_encoder(recipe.face_encoder, device=device)
    return Models(codec, text, image, face)


def write_empty(_: str, plan: Plan) -> None:
    """Write what the encoders say of the empty prompt and the empty picture."""
    torch.set_num_threads(1)
    models, tensors = load_models(plan), dict[str, Tensor]()
    if models.text:
        tensors["text"] = models.text.encode([""])[0][0]
    if models.image:
        tensors["image"] = models.image.empty()
    save_shard({name: t.half().cpu() for name, t in tensors.items()}, {}, plan.folder / EMPTY_FILE)


def write_shard(work: tuple[int, list[Clip]], plan: Plan) -> int:
    """Prepare some clips; return how many."""
    number, clips = work
    # One task per CPU: threads inside each would only contend.
    torch.set_num_threads(1)
    recipe, counts = plan.recipe, Counter[str]()
    parts: dict[str, list[Tensor]] = defaultdict(list)
    rows: list[dict[str, object]] = []
    for clip in clips:
        for sample in samples_of(plan.export, clip, recipe, counts):
            for row, tensors in _rows(sample, plan, counts):
                row["place"] = sum(r["bucket"] == row["bucket"] for r in rows)
                rows.append(row)
                for name, tensor in tensors.items():
                    parts[name].append(tensor)
    about = {"rows": rows, "counts": dict(sorted(counts.items()))}
    tensors = {name: torch.stack(each) for name, each in parts.items()}
    save_shard(tensors, {"rows": json.dumps(about)}, shard_path(plan.folder, number))
    return len(clips)


def caption_of(clip: Clip, recipe: VideoPrepareRecipe) -> str:
    """Return what is said of a clip."""
    words = {"merged": clip.caption, "attributes": clip.caption_attributes,
             "action": clip.caption_action}  # fmt: skip
    return words[recipe.caption]


def several(recipe: VideoPrepareRecipe) -> bool:
    """Tell whether samples differ in shape."""
    return recipe.stills or len(recipe.sizes) > 1


@torch.inference_mode()
def _rows(
    sample: Sample, plan: Plan, counts: Counter[str]
) -> Iterable[tuple[dict[str, object], dict[str, Tensor]]]:
    """Make the features of a window, and of its first frame by itself if stills are asked for."""
    recipe = plan.recipe
    row = {"id": sample.id, "clip": sample.clip.id, "start": sample.start, "end": sample.end,
           "person": sample.clip.person or sample.clip.label or sample.clip.id,
           "caption": caption_of(sample.clip, recipe)}  # fmt: skip
    of_person = _of_person(sample, plan, counts)
    lengths = [len(sample.frames), *([1] if recipe.stills else [])]
    for kind, length in enumerate(lengths):
        bucket = sample.bucket + kind * len(recipe.sizes)
        tensors = _of_frames(sample, plan, length, counts)
        if several(recipe):
            tensors = {f"{n}.{bucket}" if n in SHAPED_VIDEO else n: t for n, t in tensors.items()}
        name = row | {"id": f"{sample.id}-still"} if kind else row
        yield name | {"bucket": bucket}, of_person | tensors


def _of_frames(sample: Sample, plan: Plan, length: int, counts: Counter[str]) -> dict[str, Tensor]:
    """Make the features of the first frames of a window, on the grid of its latents."""
    models, recipe = load_models(plan), plan.recipe
    latents = models.codec.encode(_video(sample.frames[:length]).to(plan.device))[0].cpu()
    frames, rows, columns = latents.shape[1:]
    behind = frames_behind(length, frames)
    masks, middles = sample.masks()[:length], [each[len(each) // 2] for each in behind]
    made = {
        "latents": latents.half(),
        "mask": on_grid(torch.from_numpy(masks).float(), behind, rows, columns).half(),
        "landmarks": torch.from_numpy(sample.landmarks_px[middles]),
        "seen": torch.from_numpy(sample.seen[middles]).float(),
    }
    if recipe.motion:
        pictures = np.stack(sample.frames[:length])
        flow = flow_maps(pictures, masks, (frames, rows, columns))
        counts["still"] += length > 1 and is_still(flow)
        made["motion"] = torch.from_numpy(flow).half()
    return made


def _of_person(sample: Sample, plan: Plan, counts: Counter[str]) -> dict[str, Tensor]:
    """Make the features of the reference face and of the words."""
    models, recipe = load_models(plan), plan.recipe
    made = {"identity": torch.from_numpy(sample.identity)}
    face = _video([sample.face])[:, :, 0].to(plan.device)
    if models.image:
        made["image"] = models.image.encode(face)[0].cpu().half()
    if models.face:
        states, pooled = models.face.layers(face, recipe.face_layers)
        made |= {"face_states": states[0].cpu().half(), "face_pooled": pooled[0].cpu().float()}
    if recipe.reference_latents:
        shown = _video([sample.reference]).to(plan.device)
        made["reference_latents"] = models.codec.encode(shown)[0, :, 0].cpu().half()
    if models.text:
        words = [caption_of(sample.clip, recipe), sample.clip.caption_attributes]
        counts["cut_captions"] += models.text.overlong(words[:1])[0]
        states, _ = models.text.encode(words)
        made |= {"text": states[0].cpu().half(), "attributes_text": states[1].cpu().half()}
    return made


def on_grid(
    maps: Float[Tensor, "F height width"], behind: list[range], rows: int, columns: int
) -> Float[Tensor, "T rows columns"]:
    """Average maps over the frames and pixels of each latent."""
    small = functional.adaptive_avg_pool2d(maps[:, None], (rows, columns))[:, 0]
    return torch.stack([small[list(each)].mean(dim=0) for each in behind])


def _video(frames: list[np.ndarray]) -> Float[Tensor, "1 3 F height width"]:
    """Return frames as RGB in 0 to 1."""
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)[None].float() / 255
