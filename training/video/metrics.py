"""What is said of one video, in numbers: who is in it, frame by frame, and how it hangs together.

Two variants stand side by side. ``published`` is what ConsisID's scripts (arXiv:2411.17440,
``eval/get_facesim_fid.py`` and ``get_clipscore.py``) compute, errors included, for comparison with
published tables only. The other is corrected: a frame without a face counts as 0 rather than being
left out, so that a model gains nothing by not painting one; CLIP sees red as red; the spread over
frames is told.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from training.evaluation.metrics import cosines, face_sim
from training.evaluation.scorers import Scorer
from training.video.motion import Frames

LOOKED_AT = 16
"""Frames in which faces are looked for, as published."""


def spread(count: int, wanted: int = LOOKED_AT) -> Int64[np.ndarray, " wanted"]:
    """Return which frames ConsisID looks for faces in: evenly from the first to the last.

    Of fewer frames than are wanted some come twice, as published.
    """
    return np.linspace(0, count - 1, wanted, dtype=int)


def spread_for_clip(count: int, wanted: int = LOOKED_AT) -> Int64[np.ndarray, " wanted"]:
    """Return which frames ConsisID shows CLIP: evenly from the first on, never the last."""
    return np.array([index * count // wanted for index in range(wanted)])


@dataclass(frozen=True, slots=True)
class Likeness:
    """How far one video keeps its person."""

    mean: float
    """FaceSim: mean over frames of the cosine to the reference, 0 below that or without a face."""
    p10: float
    """A tenth of the frames is below."""
    deviation: float
    """Between frames; a face that comes and goes has a large one."""
    published: float
    """Mean over the frames that show a face; 0 where none does."""
    face_share: float
    """Frames in which the detector sees a face."""


def likeness(
    similarities: Float[np.ndarray, " frames"], shown: Int64[np.ndarray, " looks"]
) -> Likeness:
    """Sum up what was seen in a video's frames.

    Args:
        similarities: Cosine to the reference of each frame that was looked at; nan without a face.
        shown: Which of these the published mean is over; one may come twice.
    """
    counted = face_sim(similarities)
    seen = face_sim(similarities[shown], published=True)
    seen = seen[~np.isnan(seen)]
    return Likeness(
        mean=float(counted.mean()),
        p10=float(np.percentile(counted, 10)),
        deviation=float(counted.std()),
        published=float(seen.mean()) if seen.size else 0.0,
        face_share=float((~np.isnan(similarities)).mean()),
    )


def neighbours_alike(vectors: Float[np.ndarray, "frames dim"]) -> float:
    """Return the mean cosine between each frame and the next; nan for a single frame.

    With CLIP's vectors it is the temporal consistency of PersonalVideo and MagicID. A video that
    rests has 1: read it beside the motion.
    """
    return float(cosines(vectors[:-1], vectors[1:]).mean()) if len(vectors) > 1 else float("nan")


def published_clip_score(frames: Frames, prompt: Float[np.ndarray, "1 dim"], clip: Scorer) -> float:
    """Return ConsisID's CLIPScore of a video: CLIP's logit, about 100 times the cosine.

    Its frames come from OpenCV with blue first and are handed over as if red were first, so CLIP
    sees orange faces blue. Kept here, and corrected in ``clip_t``.
    """
    blue_first = np.ascontiguousarray(frames[spread_for_clip(len(frames))][..., ::-1])
    alike = cosines(clip.pictures(blue_first), np.repeat(prompt, LOOKED_AT, axis=0))
    return float(alike.mean() * clip.network.logit_scale.exp().item())
