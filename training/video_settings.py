"""Settings of methods that draw videos, part of a recipe; free of torch, as its others are."""

from dataclasses import dataclass

from infra.errors import BadValue


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoSettings:
    """Of methods that draw videos."""

    noise_correlation: float = 0.0
    """How alike the noise of neighbouring frames is, training and drawing; 0: not at all, as most
    bases are trained. See `training.noise.correlated`."""

    def __post_init__(self) -> None:
        if not 0 <= self.noise_correlation < 1:
            cure = "give 0 up to below 1."
            raise BadValue("video.noise_correlation", self.noise_correlation, cure)
