"""Who is taken for one person, and what becomes of those who are nobody."""

from dataclasses import dataclass
from typing import Literal

from infra.errors import BadValue


@dataclass(frozen=True, kw_only=True, slots=True)
class PeopleSettings:
    """Who is taken for one person, and what becomes of those who are nobody."""

    enabled: bool = True
    """Group faces into identities; without, nobody has one."""
    labels: Literal["ignore", "use"] = "ignore"
    """use: folders, names or search queries say who a main face is, and are cleaned by its vector;
    ignore: the vectors alone say it."""
    min_photos: int = 2
    """An identity of fewer photos is none."""
    pair_below: float = 0.0
    """Distance below which two single photos show one person; 0: the embedder's own. The more
    people there are, the lower it must be."""
    group_below: float = 0.0
    """What that limit rises to between groups of many photos; 0: the embedder's own."""
    benchmark: str = ""
    """Folder of a run whose people must not be here, such as a test set's; needs labels: use."""
    reject_strangers: bool = False
    """Keep only rows whose main face has an identity."""
    names: bool = False
    """Name identities from captions, where the same name recurs with one. Personal data."""

    def __post_init__(self) -> None:
        if self.min_photos < 1:
            raise BadValue("people.min_photos", self.min_photos, "give 1 or more.")
        for name in ("pair_below", "group_below"):
            if getattr(self, name) < 0:
                raise BadValue(f"people.{name}", getattr(self, name), "give 0 or more.")
        if self.benchmark and (self.labels != "use" or not self.enabled):
            raise BadValue("people.benchmark", self.benchmark, "it needs --people.labels use.")
        if self.reject_strangers and not self.enabled:
            cure = "without identities all are strangers; leave people.enabled on."
            raise BadValue("people.reject_strangers", True, cure)


@dataclass(frozen=True, kw_only=True, slots=True)
class PairSettings:
    """Which photos of a corpus are brought together for training."""

    kinds: tuple[Literal["pair", "triplet", "group"], ...] = ("pair", "triplet", "group")
    """pair: two photos of a person; triplet: and a photo of somebody who looks alike; group: a
    person in two poses, and somebody else in the first."""
    per_identity: int = 40
    """Pairs of one identity, at most."""
    min_score: float = 0.35
    """Photos that are less surely of their identity are not used, 0 to 1."""
    min_pdq_distance: int = 32
    """Photos that differ in fewer bits of 256, mirrored or not, are one photo."""
    same_pose_deg: float = 10.0
    """Poses are the same up to this angle."""
    other_pose_deg: float = 20.0
    """Poses differ from this angle on."""
    seed: int = 0
    """Another seed chooses other pairs."""

    def __post_init__(self) -> None:
        if self.per_identity < 1:
            raise BadValue("pairs.per_identity", self.per_identity, "give 1 or more.")
        if not 0 <= self.min_score <= 1:
            raise BadValue("pairs.min_score", self.min_score, "give 0 to 1.")
        if not 1 <= self.min_pdq_distance <= 256:
            raise BadValue("pairs.min_pdq_distance", self.min_pdq_distance, "give 1 to 256.")
        if not 0 <= self.same_pose_deg <= self.other_pose_deg:
            cure = f"give 0 to pairs.other_pose_deg ({self.other_pose_deg:g})."
            raise BadValue("pairs.same_pose_deg", self.same_pose_deg, cure)
        if not self.kinds:
            raise BadValue("pairs.kinds", self.kinds, "give at least one: pair, triplet, group.")
