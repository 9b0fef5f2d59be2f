"""Decide which clips show one main person well enough, and remember why not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from infra.errors import BadValue
from stages.models.faces import GroupingPoints, distance
from stages.types import Batch
from stages.words import TERM_LISTS

Track = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class KeepVideoRules:
    """Which clips are kept, as data; none of it runs a model again.

    A look is a frame in which faces were searched (``video.detect_every``). The main person is the
    track whose boxes have the largest area, summed over all looks.

    ConsisID keeps 49 frames and more with a face, of which it bridges gaps of 5 %, in a pose in
    which nose and an eye are seen, with gaps of 2.5 %. Here it is not the length of each gap that
    counts but their sum, for many short gaps pass there; a face may not be of any size, as it may
    there, where the threshold is 0; and people are counted by who they are, not by the most boxes
    that three detectors agree on in one frame, which takes two who take turns for one.

    References:
        Yuan et al., "Identity-preserving text-to-video generation by frequency decomposition",
        arXiv:2411.17440; https://github.com/PKU-YuanGroup/ConsisID (data_preprocess, steps 1 to 3).
    """

    human_terms: tuple[str, ...] = ()
    """Word lists of which the caption must hold a term; none: captions are not asked."""
    min_side_px: int = 256
    """Shorter side of the video."""
    min_frames: int = 49
    """Frames of a clip; its longest is video.max_clip_s."""
    max_black_share: float = 0.05
    """Share of a clip's frames that may be black."""
    max_frozen_share: float = 0.5
    """Share that may repeat the frame before; film at 30 frames a second repeats every fifth."""
    max_text_share: float = 0.05
    """Share of the picture that may be under writing, where somebody has looked for it."""
    min_clip_sharpness: float = 5.0
    """Laplacian variance of the picture at 256 px, of which a tenth of the looks may be below."""
    min_motion: float = 0.001
    """Diagonals of the picture per second, a mean over the looks; below, it is a still."""
    max_motion: float = 1.0
    """Above, the camera is thrown about, or a cut was missed."""
    max_people: int = 3
    """Different people with a track."""
    max_rival_share: float = 0.5
    """How large another person may be, as a share of the main one: areas summed over all looks."""
    min_track_frames: int = 49
    """Frames from the main person's first look to where the one behind the last would be."""
    min_seen_share: float = 0.9
    """Share of the looks in which the main person is found."""
    min_face_share: float = 0.02
    """Share of the picture that the main face covers, a median over its looks."""
    max_face_share: float = 0.8
    min_sharpness: float = 20.0
    """Laplacian variance of the main face, aligned, a median over its looks."""
    max_yaw_deg: float = 60.0
    max_pitch_deg: float = 45.0
    max_roll_deg: float = 45.0
    min_frontal_share: float = 0.9
    """Share of the main person's looks that must keep to these angles."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.human_terms if name not in TERM_LISTS]
        if unknown:
            raise BadValue("keep.human_terms", unknown[0], f"choose among {TERM_LISTS}.")
        for name in ("min_side_px", "min_frames", "max_people", "min_track_frames"):
            if getattr(self, name) < 1:
                raise BadValue(f"keep.{name}", getattr(self, name), "give 1 or more.")
        shares = [name for name in self.__dataclass_fields__ if name.endswith("_share")]
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise BadValue(f"keep.{name}", getattr(self, name), "give a share, 0 to 1.")
        for low, high in (("min_motion", "max_motion"), ("min_face_share", "max_face_share")):
            if not 0 <= getattr(self, low) <= getattr(self, high):
                cure = f"give 0 to keep.{high} ({getattr(self, high):g})."
                raise BadValue(f"keep.{low}", getattr(self, low), cure)
        for name in ("max_yaw_deg", "max_pitch_deg", "max_roll_deg"):
            if not 0 < getattr(self, name) <= 180:
                raise BadValue(f"keep.{name}", getattr(self, name), "give up to 180 degrees.")


class KeepVideo:
    """Mark each clip with the first rule it fails, or ``""``, and say who its main person is.

    Nothing is deleted. The vectors of the tracks are put where those of a picture's faces are, the
    main person's first, so that people are found among clips as they are among pictures.

    Args:
        rules: What is kept.
        detect_every: Frames from look to look.
        points: The embedder's distances, by which people are counted.
    """

    reads = (
        "width_px", "height_px", "start_frame", "end_frame", "motion", "sharpness_p10",
        "black_share", "frozen_share", "text_share", "tracks",
    )  # fmt: skip
    writes = ("rejected_by", "main_track", "num_faces", "face_embeddings")

    def __init__(self, rules: KeepVideoRules, detect_every: int, points: GroupingPoints) -> None:
        self.rules, self.detect_every, self.points = rules, detect_every, points

    def __call__(self, batch: Batch) -> Batch:
        """Ask every clip of ``batch``."""
        rows = [
            dict(zip(self.reads, values, strict=True))
            for values in zip(*(batch[name] for name in self.reads), strict=True)
        ]
        ordered = [main_first(row["tracks"]) for row in rows]
        return {
            "rejected_by": [
                first_failed(row, self.rules, self.detect_every, self.points) for row in rows
            ],
            "main_track": [each[0]["track_id"] if each else None for each in ordered],
            "num_faces": [len(each) for each in ordered],
            "face_embeddings": [[track["embedding"] for track in each] for each in ordered],
        }


def main_first(tracks: Sequence[Track]) -> list[Track]:
    """Return the tracks, that of the main person first, the others in their order."""
    if not tracks:
        return []
    main = max(tracks, key=lambda track: (prominence(track), -track["track_id"]))
    return [main, *(track for track in tracks if track is not main)]


def prominence(track: Track) -> float:
    """Return the area of a track's boxes, summed over its looks, in pixels."""
    return float(_areas_px(track).sum())


def first_failed(
    row: Mapping[str, Any], rules: KeepVideoRules, detect_every: int, points: GroupingPoints
) -> str:
    """Name the first rule that a watched clip fails, or ``""``.

    Args:
        row: The columns that ``KeepVideo`` reads.
        rules: What is kept.
        detect_every: Frames from look to look.
        points: The embedder's distances.
    """
    if min(row["width_px"], row["height_px"]) < rules.min_side_px:
        return "small_picture"
    return _of_the_clip(row, rules) or _of_the_people(row, rules, detect_every, points)


def _of_the_clip(row: Mapping[str, Any], rules: KeepVideoRules) -> str:
    if row["end_frame"] - row["start_frame"] < rules.min_frames:
        return "short_clip"
    if row["black_share"] > rules.max_black_share:
        return "black_clip"
    if row["frozen_share"] > rules.max_frozen_share:
        return "frozen_clip"
    if (row["text_share"] or 0.0) > rules.max_text_share:
        return "written_clip"
    if row["sharpness_p10"] < rules.min_clip_sharpness:
        return "soft_clip"
    if row["motion"] < rules.min_motion:
        return "still_clip"
    return "wild_clip" if row["motion"] > rules.max_motion else ""


def _of_the_people(
    row: Mapping[str, Any], rules: KeepVideoRules, detect_every: int, points: GroupingPoints
) -> str:
    tracks = main_first(row["tracks"])
    if not tracks:
        return "no_face"
    people = grouped(tracks, points)
    if len(people) > rules.max_people:
        return "too_many_faces"
    sizes = [sum(prominence(track) for track in person) for person in people]
    if len(sizes) > 1 and max(sizes[1:]) > rules.max_rival_share * sizes[0]:
        return "no_main_person"
    main = tracks[0]
    looks = len(range(row["start_frame"], row["end_frame"], detect_every))
    # A look stands for the frames up to the next.
    span = min(main["frames"][-1] + detect_every, row["end_frame"]) - main["frames"][0]
    if span < rules.min_track_frames or len(main["frames"]) < rules.min_seen_share * looks:
        return "short_track"
    shares = _areas_px(main) / (row["width_px"] * row["height_px"])
    share = float(np.median(shares))
    if share < rules.min_face_share:
        return "small_face"
    if share > rules.max_face_share:
        return "large_face"
    if float(np.median(main["sharpness"])) < rules.min_sharpness:
        return "soft_face"
    return "" if _frontal(main, rules) >= rules.min_frontal_share else "turned_face"


def _areas_px(track: Track) -> Float[np.ndarray, " looks"]:
    boxes_px = np.asarray(track["boxes_px"], dtype=np.float64).reshape(-1, 4)
    return np.asarray((boxes_px[:, 2:] - boxes_px[:, :2]).prod(axis=1))


def _frontal(track: Track, rules: KeepVideoRules) -> float:
    """Return the share of a track's looks that keep to the angles."""
    limits = {
        "yaws_deg": rules.max_yaw_deg,
        "pitches_deg": rules.max_pitch_deg,
        "rolls_deg": rules.max_roll_deg,
    }
    inside = [np.abs(track[name]) <= limit for name, limit in limits.items()]
    return float(np.logical_and.reduce(inside).mean())


def grouped(tracks: Sequence[Track], points: GroupingPoints) -> list[list[Track]]:
    """Group the tracks of a clip by whose they are, the first track's person first.

    Two tracks are of one person if they share no look and their templates are as near as photos of
    one label must be: a face that was lost and found again is no second person.
    """
    people: list[list[Track]] = []
    for track in tracks:
        mine = next((p for p in people if all(_alike(track, t, points) for t in p)), None)
        if mine is None:
            people.append([track])
        else:
            mine.append(track)
    return people


def _alike(one: Track, other: Track, points: GroupingPoints) -> bool:
    if not set(one["frames"]).isdisjoint(other["frames"]):
        return False
    ours, theirs = (np.asarray(t["embedding"], dtype=np.float32) for t in (one, other))
    apart = distance(ours, theirs, points.metric)
    return bool(apart < points.labelled_below)
