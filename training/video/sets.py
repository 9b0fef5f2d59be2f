"""All drawn videos against all real ones: FVD, and FID over frames."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from training.evaluation.findings import Evaluation
from training.evaluation.metrics import Score
from training.evaluation.scorers import FID_SOUND, frechet
from training.video.fvd import FEWEST
from training.video.metrics import spread
from training.video.motion import Frames

_RESAMPLES = 20
Encoder = Callable[[Frames], Float[np.ndarray, "_ dim"]]
"""Turns a video into vectors, as ``Inception`` and ``I3D`` do."""


@dataclass
class VideoSet:
    """Vectors of some videos, by whoever embeds them."""

    inception: Encoder | None
    """Gives a vector of each frame; shown 16 whole ones: none is left out for want of a face."""
    i3d: Encoder | None
    """Gives a vector of each window of frames."""
    count: int = 0
    frames: list[Float[np.ndarray, "_ dim"]] = field(default_factory=list)
    windows: list[Float[np.ndarray, "_ dim"]] = field(default_factory=list)

    def add(self, frames: Frames) -> None:
        """Embed one more video."""
        self.count += 1
        if self.inception is not None:
            self.frames.append(self.inception(frames[spread(len(frames))]))
        if self.i3d is not None:
            self.windows.append(self.i3d(frames))


def compare_sets(found: Evaluation, drawn: VideoSet, real: VideoSet) -> None:
    """Add FVD and FID to what was found, or why they cannot be had."""
    for name, flag, encoder, ours, theirs in (
        ("fid_inception", "inception", drawn.inception, drawn.frames, real.frames),
        ("fvd", "i3d", drawn.i3d, drawn.windows, real.windows),
    ):
        if encoder is None:
            found.absent[name] = f"no --{flag} was given"
        elif not real.count:
            found.absent[name] = "there are no real videos to compare with"
        elif not sum(map(len, ours)):
            found.absent[name] = f"videos of fewer than {FEWEST} frames are too short for I3D"
        else:
            score, why = frechet_score(ours, theirs)
            found.put(name, score, why)
            if score is not None and score.n < FID_SOUND:
                found.notes.append(
                    f"{name}: of {score.n} vectors; below {FID_SOUND} it is mostly bias. Compare "
                    "it only with one of equally many."
                )


def frechet_score(
    drawn: Sequence[Float[np.ndarray, "_ dim"]], real: Sequence[Float[np.ndarray, "_ dim"]]
) -> tuple[Score | None, str]:
    """Return the Fréchet distance between two sets of vectors, some of each video.

    The interval is 95 %, by drawing videos again. That repeats vectors, which raises the distance;
    so only the spread of these is used, around the value itself.

    Returns:
        The score, with the number of drawn vectors; or None and the reason.

    References:
        Unterthiner et al., "Towards Accurate Generative Models of Video: A New Metric &
        Challenges", arXiv:1812.01717.
    """
    a, b = np.concatenate(drawn), np.concatenate(real)
    if (fewest := min(len(a), len(b))) <= a.shape[1]:
        return None, f"{fewest} vectors cannot fill the {a.shape[1]} dimensions of the encoder"
    rng, again = np.random.default_rng(0), []
    for _ in range(_RESAMPLES):
        who, whom = (rng.integers(len(each), size=len(each)) for each in (drawn, real))
        chosen = np.concatenate([drawn[i] for i in who]), np.concatenate([real[i] for i in whom])
        again.append(frechet(*chosen))
    value, reach = frechet(a, b), 1.96 * float(np.std(again, ddof=1))
    return Score(value, max(value - reach, 0.0), value + reach, len(a)), ""
