"""How videos are watched."""

from dataclasses import dataclass

from infra.errors import BadValue


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoSettings:
    """What becomes of a video: limits, cuts, clips, tracks."""

    max_minutes: float = 180.0
    """A longer video is an error, whether its header says so or its frames do."""
    max_megapixels: float = 9.0
    """The largest frame that is decoded; 4K has 8.3."""
    threads: int = 1
    """Threads of the decoder and of the encoder, each. The clips' bytes depend on it."""
    cut_ratio: float = 3.0
    """A cut changes the picture so many times more than the four frames around it do."""
    cut_change: float = 15.0
    """And by this much at least: mean change of hue, saturation and value, 0 to 255."""
    min_shot_frames: int = 15
    """A cut nearer than this to the one before is a flash, not a cut."""
    trim_frames: int = 2
    """Frames left out on both sides of a cut: compression smears one shot into the next."""
    min_clip_s: float = 1.0
    """What is left of a shot, if shorter, becomes no clip."""
    max_clip_s: float = 20.0
    """A longer shot becomes several clips; its last one may be too short and is then left out."""
    crf: int = 18
    """Constant rate factor of H.264 for the clips: 0 lossless, 18 hardly visible, 51 worst."""
    preset: str = "veryfast"
    """Preset of x264: slower ones write smaller files."""
    detect_every: int = 5
    """Faces are looked for in every n-th frame of a clip, from its first."""
    work_px: int = 1280
    """Long side of the frame that faces are looked for in, at most."""
    iou: float = 0.3
    """A face is where a track's last face was if their boxes overlap by this much of their union;
    one that overlaps less must also look like it."""
    max_gap: int = 3
    """Looks in a row at which a track's face may be missing before the track ends."""
    min_track_looks: int = 2
    """A track seen less often is none: detectors see faces in curtains, but not for long."""

    def __post_init__(self) -> None:
        floors = {
            "threads": 1, "min_shot_frames": 1, "trim_frames": 0, "detect_every": 1,
            "work_px": 80, "max_gap": 0, "min_track_looks": 1, "cut_change": 0, "min_clip_s": 0,
        }  # fmt: skip
        for name, floor in floors.items():
            if getattr(self, name) < floor:
                raise BadValue(f"video.{name}", getattr(self, name), f"give {floor} or more.")
        for name in ("max_minutes", "max_megapixels", "cut_ratio"):
            if getattr(self, name) <= 0:
                raise BadValue(f"video.{name}", getattr(self, name), "give more than 0.")
        if not self.min_clip_s < self.max_clip_s:
            cure = f"give more than video.min_clip_s ({self.min_clip_s:g})."
            raise BadValue("video.max_clip_s", self.max_clip_s, cure)
        if not 0 <= self.crf <= 51:
            raise BadValue("video.crf", self.crf, "give 0 to 51.")
        if self.preset not in PRESETS:
            raise BadValue("video.preset", self.preset, f"choose among {', '.join(PRESETS)}.")
        if not 0 < self.iou < 1:
            raise BadValue("video.iou", self.iou, "give a share between 0 and 1.")


PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow",
)  # fmt: skip
