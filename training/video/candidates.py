"""Draw videos that may win or lose, and score them: who is in them, how they move, what they show.

Shapes: L text tokens of width E; C channels, T frames, H rows, W columns of latents.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from infra.errors import BadValue
from stages.types import RGB
from training.evaluation.metrics import cosines
from training.evaluation.recognise import Recogniser
from training.exports import save_tensors
from training.features import EMPTY_FILE, write_index
from training.method import AS_USUAL, Condition, Sampling
from training.methods.on_video import OnVideo
from training.preferences import write_candidates
from training.video.metrics import likeness, spread
from training.video.mining import Candidate, Source, at_rest
from training.video.motion import Frames, measure_motion
from training.video.scores import Measures


@dataclass(frozen=True)
class Prompt:
    """What candidates are asked for with."""

    words: str
    states: Float[Tensor, "L E"]
    """Of the base's text encoder."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What candidates are scored with."""

    identity: Float[np.ndarray, " dim"]
    """Raw vector of the person, from a photograph that is no candidate."""
    recogniser: Recogniser
    measures: Measures
    """Its ``flow`` measures motion, and its ``clip``, if there is one, what frames have of the
    prompt."""


@dataclass(frozen=True)
class _Asked:
    """A candidate before it is drawn."""

    source: Source
    prompt: Prompt | None = None
    seed: int = 0
    photo: RGB | None = None


@torch.no_grad()
def draw_candidates(
    method: OnVideo,
    prompts: Sequence[Prompt],
    photos: Sequence[RGB],
    out: Path,
    judge: Judge,
    *,
    person: str,
    seeds: Sequence[int] = (0, 1),
    sampling: Sampling = AS_USUAL,
) -> list[Candidate]:
    """Draw each prompt with the tuned model and with its base, and put photographs beside them.

    The folder is then features of these videos, with ``candidates.parquet``, of which
    ``training.preferences.prefer`` makes pairs. The same call again, as after Ctrl-C, draws only
    what is not there.

    Args:
        method: The tuned model, in evaluation; at scale 0 it is its base.
        prompts: Each is drawn with every seed.
        photos: Of the person, as large as the videos; each becomes a video at rest.
        out: Where the features are to be.
        judge: What scores them.
        person: Whose name all samples have.
        seeds: What drawings begin as; the same for both models.
        sampling: How they are drawn; its scale is the tuned model's.

    Raises:
        BadValue: A photograph has another size than the videos.
    """
    (out / "shards").mkdir(parents=True, exist_ok=True)
    asked = [_Asked("static", photo=photo) for photo in photos]
    asked += list(_of(prompts, seeds))
    found = []
    for number, one in enumerate(asked):
        path = out / f"shards/shard-{number:05d}.safetensors"
        if not path.is_file():
            _draw(method, one, f"{number:05d}", path, judge, sampling)
        with safe_open(path, framework="pt") as held:
            found.append(_candidate(held.metadata()))
    save_tensors(out / EMPTY_FILE, method.conditions.held)
    write_index(
        out,
        [
            {"id": each.id, "person": person, "caption": each.prompt, "shard": number, "row": 0}
            for number, each in enumerate(found)
        ],
    )
    write_candidates(out, found)
    replace(method.features, latent_shapes=(), pairs="").write(out)
    return found


def _of(prompts: Sequence[Prompt], seeds: Sequence[int]) -> Iterator[_Asked]:
    for prompt in prompts:
        for seed in seeds:
            yield _Asked("tuned", prompt, seed)
            yield _Asked("base", prompt, seed)


def _draw(
    method: OnVideo, asked: _Asked, id_: str, path: Path, judge: Judge, sampling: Sampling
) -> None:
    """Draw one candidate, score it, and write both, whole or not at all."""
    frames = _frames(method, asked, sampling)
    video = frames.transpose(0, 1)[None].to(method.network.device)
    text = method.conditions.empty_text if asked.prompt is None else asked.prompt.states
    rows = {
        "latents": method.codec.encode(video).half(),
        "text": text[None].half(),
        "identity": torch.from_numpy(np.asarray(judge.identity, np.float32))[None],
    }
    pixels = (frames * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    words = "" if asked.prompt is None else asked.prompt.words
    scored = score(pixels, id_, prompt=words, source=asked.source, judge=judge)
    beside = path.with_suffix(".part")
    told = {name: str(value) for name, value in asdict(scored).items()}
    save_file({n: row.cpu().contiguous() for n, row in rows.items()}, beside, metadata=told)
    beside.replace(path)


def _frames(
    method: OnVideo, asked: _Asked, sampling: Sampling
) -> Float[Tensor, "F 3 height width"]:
    """Return a candidate's frames, RGB in 0 to 1."""
    told = method.features
    if asked.photo is not None:
        each_px = told.image_px / (told.latent_shape[1] * told.latent_shape[2]) ** 0.5
        wanted = tuple(round(side * each_px) for side in told.latent_shape[1:])
        if asked.photo.shape[:2] != wanted:
            raise BadValue("photos", asked.photo.shape[:2], f"give pictures of {wanted} px.")
        still = torch.from_numpy(at_rest(asked.photo, told.clip_frames))
        return still.permute(0, 3, 1, 2).float() / 255
    assert asked.prompt is not None
    nobody = torch.zeros(1, told.identity_dim)
    rng = torch.Generator().manual_seed(asked.seed)
    how = sampling if asked.source == "tuned" else replace(sampling, scale=0.0)
    condition = Condition(nobody, text=asked.prompt.states[None])
    return method.generate(condition, rng, how)[0]


def _candidate(told: dict[str, str]) -> Candidate:
    source: Any = told["source"]
    identity, dynamics, follows = (float(told[n]) for n in ("identity", "dynamics", "follows"))
    return Candidate(
        id=told["id"],
        prompt=told["prompt"],
        source=source,
        identity=identity,
        dynamics=dynamics,
        follows=follows,
    )


def score(frames: Frames, id_: str, *, prompt: str, source: Source, judge: Judge) -> Candidate:
    """Score one candidate.

    Args:
        frames: Of the video.
        id_: Of its sample in the features that it is, or will be, prepared as.
        prompt: What it was asked for with; empty for a photograph at rest.
        source: Who drew it.
        judge: What it is scored with.

    Returns:
        FaceSim over 16 frames, where a frame without a face counts as 0; flow in diagonals per
        second, nan of less than two frames; CLIP-T over frames, 0 without CLIP or without a prompt.
    """
    recogniser, measures = judge.recogniser, judge.measures
    looked_at, shown = np.unique(spread(len(frames)), return_inverse=True)
    look = recogniser.look(frames[looked_at])
    person = np.repeat(judge.identity[None], len(looked_at), axis=0)
    similar = np.where(look.found, recogniser.similarity(look.vectors, person), np.nan)
    follows = 0.0
    if measures.clip is not None and prompt:
        said, _ = measures.clip.prompts([prompt])
        views = measures.clip.pictures(frames)
        follows = float(cosines(views, np.repeat(said, len(views), axis=0)).mean())
    return Candidate(
        id=id_,
        prompt=prompt,
        source=source,
        identity=likeness(similar, shown).mean,
        dynamics=measure_motion(frames, measures.fps, measures.flow).per_s,
        follows=follows,
    )
