"""How weights are moved, part of a recipe; free of torch, as ``training.settings`` is."""

from dataclasses import dataclass
from typing import Literal

from infra.errors import BadValue


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiserSettings:
    """AdamW and its schedule."""

    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup_steps: int = 0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up: stay, or fall to 0 at the last step."""
    clip_norm: float = 1.0
    """Gradients whose norm is greater are scaled down to it."""
    ema_decay: float = 0.0
    """Decay of the moving average of what is trained; 0: none."""

    def __post_init__(self) -> None:
        # Asked this way round, NaN is refused too.
        if not 0 < self.learning_rate < float("inf"):
            cure = "give more than 0; 1e-4 is usual."
            raise BadValue("optimiser.learning_rate", self.learning_rate, cure)
        if not 0 <= self.weight_decay < float("inf"):
            cure = "give 0 or more; 0.01 is usual."
            raise BadValue("optimiser.weight_decay", self.weight_decay, cure)
        if self.warmup_steps < 0:
            raise BadValue("optimiser.warmup_steps", self.warmup_steps, "give 0 or more.")
        if not 0 < self.clip_norm < float("inf"):
            cure = "give more than 0; 1 is usual."
            raise BadValue("optimiser.clip_norm", self.clip_norm, cure)
        if not 0 <= self.ema_decay < 1:
            cure = "give 0 up to below 1; 0.999 is usual, 0 is none."
            raise BadValue("optimiser.ema_decay", self.ema_decay, cure)
