"""Score a method that draws videos: one of each held-out person, looked at frame by frame.

The first videos are also kept, as MP4 beside the contact sheet.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from infra.errors import BadValue
from pipelines.evaluation.settings import EvaluateSettings
from serving.mp4 import write_mp4
from stages.models.backend import load_detector
from training.data import OF_REFERENCE
from training.evaluate import loss_gains
from training.evaluation.drawing import HeldOut, Plan, Progress, takes_text
from training.evaluation.fidelity import captions_of
from training.evaluation.findings import Evaluation
from training.evaluation.metrics import wilcoxon_greater
from training.evaluation.recognise import Recogniser
from training.evaluation.scorers import load_scorer
from training.evaluation.sheets import SHOWN
from training.features import Features, Prepared
from training.method import Condition, Method, Sampling
from training.nets.codec import decoded
from training.video.fvd import load_i3d
from training.video.inception import Inception, load_inception
from training.video.motion import Frames, load_flow
from training.video.scores import Measures, References, score_videos

VIDEOS = "videos"
"""Folder of the MP4s."""
_PIXELS_AT_ONCE = 2**21
_DETECT_PX = 320
"""ConsisID's size at which it looks for the faces that Inception compares."""
_MIN_SCORE = {"dlib": 0.0, "insightface": 0.5}


def load_measures(features: Features, settings: EvaluateSettings, device: str) -> Measures:
    """Load what measures videos, beside the recogniser.

    Raises:
        BadValue: The features do not say how fast their videos play, or a reference cannot work.
        BadWeights: Weights are not what they should be.
    """
    if features.fps <= 0:
        cure = "motion is measured per second. Prepare the videos again."
        raise BadValue("features.fps", features.fps, cure)
    return Measures(
        fps=features.fps,
        flow=load_flow(settings.flow, device),
        clip=load_scorer("clip", settings.clip, device) if settings.clip else None,
        dino=load_scorer("dino", settings.dino, device) if settings.dino else None,
        inception=load_eye(features, settings, device),
        i3d=load_i3d(settings.i3d, device) if settings.i3d else None,
    )


def load_eye(features: Features, settings: EvaluateSettings, device: str) -> Inception | None:
    """Load Inception-v3 for FID, and the detector of the faces that it compares; if asked for."""
    if not settings.inception:
        return None
    backend = features.backend
    smallest = _MIN_SCORE.get(backend, 0.0)
    detector = load_detector(backend, settings.pack, _DETECT_PX, smallest, device)
    return load_inception(settings.inception, detector, device)


@torch.no_grad()
def evaluate_videos(
    method: Method,
    prepared: Prepared,
    people: HeldOut,
    plan: Plan,
    recogniser: Recogniser,
    measures: Measures,
    *,
    folder: Path,
    device: str = "cpu",
    progress: Progress = lambda *_: None,
) -> Evaluation:
    """Draw a video of every held-out person, from one stream of noise, seed 0, and score them.

    Args:
        method: In evaluation, on ``device``; its ``generate`` returns videos.
        prepared: What it was trained on, and the held-out people.
        people: Whom to draw.
        plan: How; there is one video of each, so ``seeds`` says nothing.
        recogniser: Who tells people apart.
        measures: What else measures.
        folder: Gets ``videos/``, the MP4s of those who are on the contact sheet.
        device: ``cpu`` or ``cuda``.
        progress: Told how it goes.
    """
    clips = _Clips(prepared, method, device)
    second = None if people.second is None else prepared.read("identity", people.second).numpy()
    references = References(
        identity=prepared.read("identity", people.first).numpy(),
        second=second,
        pictures=[frames[len(frames) // 2] for frames in clips(people.first)],
        prompts=captions_of(prepared, people.target) if takes_text(method, prepared) else None,
        real=clips(people.target),
    )
    drawn = _drawn(method, prepared, people, plan, progress)
    kept = _kept(drawn, people.names, folder / VIDEOS, max(round(measures.fps), 1))
    found = score_videos(kept, references, recogniser, measures)
    gains = loss_gains(method, prepared, people.first, device=device, progress=progress)
    found.mean("loss_gain", gains)
    found.p_values["loss_gain"] = wilcoxon_greater(gains, np.zeros_like(gains))
    return found


class _Clips:
    """The prepared videos as frames again: what the codec keeps of them."""

    def __init__(self, prepared: Prepared, method: Method, device: str) -> None:
        self.prepared, self.codec, self.device = prepared, method.codec, device

    def __call__(self, samples: Int64[np.ndarray, " people"]) -> Iterator[Frames]:
        """Decode some, one by one: one alone fills the memory, and shapes differ."""
        for sample in samples.tolist():
            latents = self.prepared.read("latents", np.array([sample])).to(self.device)
            with torch.no_grad():
                yield from _frames(decoded(self.codec, latents).transpose(1, 2))


def _frames(videos: Float[Tensor, "videos frames 3 height width"]) -> Iterator[Frames]:
    """Turn videos of 0 to 1 into bytes."""
    for video in videos:
        bytes_ = (video.float().clamp(0, 1) * 255).round().byte()
        yield np.asarray(bytes_.permute(0, 2, 3, 1).contiguous().cpu().numpy(), dtype=np.uint8)


def _drawn(
    method: Method, prepared: Prepared, people: HeldOut, plan: Plan, progress: Progress
) -> Iterator[Frames]:
    """Draw one video of each person, as many at once as a few large pictures are."""
    rng, total = torch.Generator().manual_seed(0), len(people.names)
    sampling = Sampling(steps=plan.steps, guidance=plan.guidance)
    features = prepared.features
    video_pixels = features.image_px**2 * max(features.clip_frames, 1)
    at_once = max(1, _PIXELS_AT_ONCE // video_pixels)
    progress("drawing", 0, total)
    for start in range(0, total, at_once):
        part = slice(start, min(start + at_once, total))
        asked = _asked(method, prepared, people.first[part], people.target[part])
        with torch.no_grad():
            videos = method.generate(asked, rng, sampling)
        for number, frames in enumerate(_frames(videos)):
            yield frames
            progress("drawing", part.start + number + 1, total)


def _asked(
    method: Method,
    prepared: Prepared,
    references: Int64[np.ndarray, " people"],
    targets: Int64[np.ndarray, " people"],
) -> Condition:
    """Ask for the people of some clips, in the words of others."""
    there, worded = prepared.names, takes_text(method, prepared)
    more = {name: prepared.read(name, references) for name in OF_REFERENCE if name in there}
    if worded and "attributes_text" in there:
        more["attributes_text"] = prepared.read("attributes_text", targets)
    return Condition(
        identity=more.pop("identity"),
        image=more.pop("image", None),
        text=prepared.read("text", targets) if worded else None,
        pooled=prepared.read("pooled", targets) if worded and "pooled" in there else None,
        more=more,
    )


def _kept(videos: Iterator[Frames], names: list[str], folder: Path, fps: int) -> Iterator[Frames]:
    """Write the first videos on their way, named by their place and person."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (frames, name) in enumerate(zip(videos, names, strict=True)):
        if number < SHOWN:
            said = re.sub(r"[^\w.-]", "_", name)[:60]
            even = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
            write_mp4(even, folder / f"{number:02d}-{said}.mp4", fps)
        yield frames
