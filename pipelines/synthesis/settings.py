"""What `visage synthesize` is asked; free of torch, so that help is instant."""

from dataclasses import dataclass, field
from typing import Literal

from infra.errors import BadValue
from serving.provenance.settings import ProvenanceSettings


@dataclass(frozen=True, kw_only=True)
class SynthesizeSettings:
    """All that decides a corpus of people who do not exist."""

    model: str = ""
    """What draws: `file:<run>/step-<number>/export` of a method that is told identity alone, such
    as arc2face."""
    corpus: str = ""
    """Real people: folder of a curation run, measured with the encoder of the model. New people
    are drawn from the statistics of its vectors, and are nobody of it."""
    people: int = 100
    pictures: int = 8
    """Of each person."""
    plan: str = ""
    """YAML file with shares of people and of pictures that are to be like this or that."""
    below: float = 0.0
    """Cosine similarity that a new person stays below to all others, new and real; 0: 0.3 for
    encoders that are compared by cosine, 0.5 (less the corpus' mean) for dlib."""
    variation_deg: float = 15.0
    """Angle by which vectors of one person are turned at most."""
    steps: int = 30
    """Calls of the network per picture."""
    guidance: float = 3.0
    """Weight of the identity when drawing; 1 is no guidance."""
    seed: int = 0
    aligned: bool = False
    """The model draws aligned faces, as features prepared with `crop: aligned` have them."""
    pack: str = ""
    """Model pack, where the corpus was measured with insightface."""
    people_per_part: int = 16
    """People whose pictures are drawn and written together: what a crash costs at most."""
    provenance: ProvenanceSettings = field(
        default_factory=lambda: ProvenanceSettings(watermark="none")
    )
    """Who signs the pictures. Their pixels are not marked: they are to be learnt from."""
    device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        for name in ("people", "pictures", "steps", "people_per_part"):
            if getattr(self, name) < 1:
                raise BadValue(name, getattr(self, name), "give 1 or more.")
        if not 0 <= self.below < 1:
            raise BadValue("below", self.below, "give 0 up to below 1.")
        if not 0 <= self.variation_deg < 90:
            raise BadValue("variation_deg", self.variation_deg, "give 0 up to below 90.")
        if self.guidance < 0 or self.seed < 0:
            name = "guidance" if self.guidance < 0 else "seed"
            raise BadValue(name, getattr(self, name), "give 0 or more.")
        if self.provenance.watermark != "none":
            cure = "pictures that are to be learnt from carry no mark in their pixels; give none."
            raise BadValue("provenance.watermark", self.provenance.watermark, cure)
