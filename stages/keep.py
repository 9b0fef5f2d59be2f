"""Turn measures into decisions, and remember why."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra.errors import BadValue
from stages.types import Batch
from stages.words import TERM_LISTS


@dataclass(frozen=True, kw_only=True, slots=True)
class KeepRules:
    """The FaceID-6M rules and the floors of quality, as data.

    The rules on declared size and captions are asked before anything is fetched, the others of
    columns that the models have written, so that moving them runs no model again. Where a picture
    has several faces, quality and pose are asked of the largest.
    """

    human_terms: tuple[str, ...] = TERM_LISTS
    """Word lists of which the caption must hold a term; none: captions are not asked."""
    min_side_px: int = 512
    """Shorter side of the picture."""
    min_faces: int = 1
    max_faces: int = 3
    min_face_share: float = 0.04
    """Share of the picture that every face must cover."""
    min_sharpness: float = 20.0
    """Laplacian variance of the aligned face at 112 px."""
    max_yaw_deg: float = 60.0
    max_pitch_deg: float = 45.0
    max_roll_deg: float = 45.0
    min_exposure: float = 0.10
    """Mean luminance of the face, 0 to 1."""
    max_exposure: float = 0.92

    def __post_init__(self) -> None:
        unknown = [name for name in self.human_terms if name not in TERM_LISTS]
        if unknown:
            raise BadValue("keep.human_terms", unknown[0], f"choose among {TERM_LISTS}.")
        if not 0 <= self.min_faces <= self.max_faces:
            raise BadValue(
                "keep.min_faces", self.min_faces, f"give 0 to keep.max_faces ({self.max_faces})."
            )
        if not 0 <= self.min_face_share <= 1:
            raise BadValue("keep.min_face_share", self.min_face_share, "give a share, 0 to 1.")
        if not 0 <= self.min_exposure <= self.max_exposure <= 1:
            raise BadValue(
                "keep.min_exposure", self.min_exposure, "give 0 to keep.max_exposure, at most 1."
            )


class Keep:
    """Mark each row with the first rule it fails, or ``""`` when it passes them all.

    Nothing is deleted: kept and rejected rows are written side by side.
    """

    reads = (
        "width_px",
        "height_px",
        "num_faces",
        "face_area_shares",
        "face_sharpness",
        "face_yaws_deg",
        "face_pitches_deg",
        "face_rolls_deg",
        "face_exposures",
    )
    writes = ("rejected_by",)

    def __init__(self, rules: KeepRules) -> None:
        self.rules = rules

    def __call__(self, batch: Batch) -> Batch:
        """Ask every row of ``batch``."""
        rows = zip(*(batch[name] for name in self.reads), strict=True)
        return {
            "rejected_by": [
                first_failed(dict(zip(self.reads, row, strict=True)), self.rules) for row in rows
            ]
        }


def first_failed(row: Mapping[str, Any], rules: KeepRules) -> str:
    """Name the first rule that a measured row fails, in the order of ``REJECTIONS``."""
    if min(row["width_px"], row["height_px"]) < rules.min_side_px:
        return "small_picture"
    if row["num_faces"] < rules.min_faces:
        return "no_face"
    if row["num_faces"] > rules.max_faces:
        return "too_many_faces"
    if row["num_faces"] == 0:
        return ""
    if min(row["face_area_shares"]) < rules.min_face_share:
        return "small_face"
    if row["face_sharpness"][0] < rules.min_sharpness:
        return "soft_face"
    if (
        abs(row["face_yaws_deg"][0]) > rules.max_yaw_deg
        or abs(row["face_pitches_deg"][0]) > rules.max_pitch_deg
        or abs(row["face_rolls_deg"][0]) > rules.max_roll_deg
    ):
        return "turned_face"
    if row["face_exposures"][0] < rules.min_exposure:
        return "dark_face"
    if row["face_exposures"][0] > rules.max_exposure:
        return "bright_face"
    return ""
