"""How videos are drawn and kept."""

from dataclasses import dataclass

from infra.errors import BadValue


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoSettings:
    """What is drawn, by whom, within which bounds, and how long it is kept."""

    model: str = ""
    """What draws: `NAME@alias`, `NAME/version` or `NAME` in the registry, `file:<export folder>`,
    or `random:tiny-animatediff`, whose weights are drawn from a seed. Empty: none."""
    device: str = "cpu"
    workers: int = 1
    """Processes that draw."""
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    at_once: int = 1
    """Videos that each of them draws at the same time."""
    folder: str = ""
    """Where checkpoints and results lie, on a disk that all gateways and workers share; empty:
    `<store>/videos`."""
    queue: int = 1000
    """Jobs that may wait; beyond that a request is told to come back."""
    steps: int = 25
    max_steps: int = 100
    guidance: float = 7.5
    max_side_px: int = 1024
    checkpoint_s: float = 10.0
    """Seconds of drawing that the death of a worker can cost."""
    previews: bool = True
    """Show, at every checkpoint, how the frame in the middle looks; never where anybody is
    protected, for an unfinished face may escape the guard and not an eye."""
    lease_s: float = 30.0
    """How long a worker may be silent before another one takes its job."""
    attempts: int = 10
    """How often a job is begun, if its workers die of it."""
    keep_s: int = 86400
    """How long the result of a job can be fetched, and its prompt is kept."""
    listed_s: int = 7 * 86400
    """How long after its beginning a job is known at all."""

    def __post_init__(self) -> None:
        for name in ("workers", "at_once", "queue", "attempts", "keep_s", "lease_s"):
            if not getattr(self, name) > 0:
                raise BadValue(f"videos.{name}", getattr(self, name), "give more than 0.")
        if self.listed_s < self.keep_s:
            cure = f"a job cannot be forgotten before its result, after {self.keep_s} s."
            raise BadValue("videos.listed_s", self.listed_s, cure)
