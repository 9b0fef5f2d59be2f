"""Settings of methods that draw videos, part of a recipe; free of torch, as its others are."""

from dataclasses import dataclass
from typing import Literal

from infra.errors import BadValue


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoSettings:
    """Of methods that draw videos."""

    noise_correlation: float = 0.0
    """How alike the noise of neighbouring frames is, training and drawing; 0: not at all, as most
    bases are trained. See `training.noise.correlated`."""
    trained: Literal["all", "added"] = "all"
    """consis_id, proteus_id: the whole transformer, as published, or what was added to it alone."""
    mask_share: float = 0.0
    """consis_id, proteus_id: share of the samples whose loss `masked` is of the face alone (0.5 as
    published); of the others it is of the whole video."""
    reference_noise: bool = False
    """consis_id, proteus_id: put noise on the reference's latents, its size drawn anew for each
    (published)."""
    reference_dropout: float = 0.0
    """consis_id, proteus_id: share of the samples whose reference latents are zeros (0.05 as
    published)."""
    shallow_share: float = 1.0
    """consis_id, proteus_id: share of the samples that are shown what is shallow of the face, see
    `training.video.chances.without_shallow`; the others learn from what is deep (EchoVideo)."""
    shallow_from: float = 0.0
    """consis_id, proteus_id: share of the run before which nobody is shown it: EchoVideo's first
    stage."""
    tiled: bool = False
    """Of CogVideoX's codec: work on overlapping tiles, one sample at a time, for less memory."""

    frames: int = 0
    """personal_video: latent frames of what is drawn, where photographs were prepared and not
    clips."""
    late_share: float = 1.0
    """personal_video: the last so much of the drawing is the subject's, the rest the base's own;
    0.25 as published."""
    prompts: str = ""
    """personal_video: file of prompts, one per line, each with a {} for the class; empty: those of
    training/video/prompts.py."""

    def __post_init__(self) -> None:
        if self.frames < 0:
            raise BadValue("video.frames", self.frames, "give 0 or more.")
        if not 0 < self.late_share <= 1:
            raise BadValue("video.late_share", self.late_share, "give more than 0, up to 1.")
        if not 0 <= self.noise_correlation < 1:
            cure = "give 0 up to below 1."
            raise BadValue("video.noise_correlation", self.noise_correlation, cure)
        for name in ("mask_share", "reference_dropout", "shallow_share", "shallow_from"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadValue(f"video.{name}", getattr(self, name), "give a share, 0 to 1.")
