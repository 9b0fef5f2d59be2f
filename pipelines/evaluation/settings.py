"""What `visage evaluate` is asked; free of torch, so that help is instant."""

from dataclasses import dataclass

from infra.errors import BadValue


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """How a training run is scored on people that it never saw."""

    people: int = 200
    """People, at most; who has two photographs or more comes first."""
    guidance: float = 3.0
    """Weight of the condition when drawing; 1 is no guidance."""
    seeds: int = 4
    """Pictures of each person on the contact sheet; all scores but diversity are of the first. Of
    videos there is one."""
    steps: int = 30
    """Calls of the network per picture or video."""
    checkpoint: str = "latest"
    """Which one: `latest`, `best` (needs keep_best in the recipe) or its name, `step-0000500`."""
    clip: str = ""
    """CLIP for CLIP-T, CLIP-I and FID-CLIP: `file:<folder>` as transformers saves it. Also
    for the consistency of videos."""
    dino: str = ""
    """ViT or DINOv2 for DINO and FID-DINO, and the consistency of videos: `file:<folder>`."""
    flow: str = "dis"
    """Of videos: what measures motion, `dis` (OpenCV's) or `file:<safetensors>` of torchvision's
    RAFT."""
    i3d: str = ""
    """Of videos: I3D of Kinetics-400 for FVD, `file:<safetensors>` with pytorch-i3d's names."""
    inception: str = ""
    """torchvision's Inception-v3 for FID, `file:<safetensors>`; of pictures it needs 2,049 people
    or more."""
    pack: str = ""
    """Model pack, where the corpus was measured with insightface."""

    def __post_init__(self) -> None:
        for name in ("people", "seeds", "steps"):
            if getattr(self, name) < 1:
                raise BadValue(name, getattr(self, name), "give 1 or more.")
        if self.guidance < 0:
            raise BadValue("guidance", self.guidance, "give 0 or more.")
