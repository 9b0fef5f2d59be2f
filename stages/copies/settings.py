"""When two pictures are one."""

from dataclasses import dataclass

from infra.errors import BadValue


@dataclass(frozen=True, kw_only=True, slots=True)
class DedupeSettings:
    """When two pictures are one."""

    max_pdq_distance: int = 31
    """Differing bits of 256 up to which two perceptual hashes show one picture. No pair within is
    missed; beyond 47 every pair is compared, which takes long for more than 100,000 pictures."""
    min_pdq_quality: int = 50
    """Hashes of lower quality (flat pictures) are not compared."""
    mirrored: bool = True
    """Whether a mirrored copy is a copy."""
    semantic_column: str = "face_embeddings"
    """Column of embeddings that finds copies which the hash misses, such as crops; empty: none.
    `face_embeddings`: those of the main faces."""
    min_cosine: float = 0.995
    """Least cosine of the embeddings of two such copies. Chosen for dlib's faces on half of the
    people of LFW: the least at which no two photographs of theirs were taken for one."""
    max_semantic_pdq_distance: int = 110
    """Differing bits up to which they are copies; 256 trusts the embedding alone. Embeddings of
    faces need it: they are alike for all pictures of one person."""

    def __post_init__(self) -> None:
        for name in ("max_pdq_distance", "max_semantic_pdq_distance"):
            if not 0 <= getattr(self, name) <= 256:
                raise BadValue(f"dedupe.{name}", getattr(self, name), "give 0 to 256.")
        if not 0 < self.min_cosine <= 1:
            raise BadValue("dedupe.min_cosine", self.min_cosine, "give more than 0, at most 1.")
