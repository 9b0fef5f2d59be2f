"""Follow faces through a clip."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32
from scipy.optimize import linear_sum_assignment

from stages.models.faces import distance
from stages.video.settings import VideoSettings

# Letters of axes: T tracks, F faces, D numbers of an embedding.

_LOOKS_ALIKE = 0.85
"""Share of the embedder's threshold below which a face is the track's wherever it is."""
_STRANGER = 1.15
"""Share of the embedder's threshold above which a face is somebody else's wherever it is."""
_NEVER = 1e3


@dataclass(frozen=True, slots=True)
class Seen:
    """The faces of one look: what the models say of each."""

    boxes_px: Float32[np.ndarray, "faces 4"]
    scores: Float32[np.ndarray, " faces"]
    landmarks_px: Float32[np.ndarray, "faces 5 2"]
    embeddings: Float32[np.ndarray, "faces dim"]
    sharpness: Float32[np.ndarray, " faces"]
    angles_deg: Float32[np.ndarray, "faces 3"]
    """Yaw, pitch and roll."""


@dataclass(slots=True)
class Track:
    """One face through a clip: an entry per look at which it was found."""

    frames: list[int] = field(default_factory=list)
    """Frame numbers of the video."""
    boxes_px: list[Float32[np.ndarray, "4"]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    landmarks_px: list[Float32[np.ndarray, "5 2"]] = field(default_factory=list)
    embeddings: list[Float32[np.ndarray, " dim"]] = field(default_factory=list)
    sharpness: list[float] = field(default_factory=list)
    angles_deg: list[Float32[np.ndarray, "3"]] = field(default_factory=list)
    last_look: int = 0

    def add(self, look: int, frame: int, seen: Seen, face: int) -> None:
        """Put a face at the track's end."""
        self.last_look = look
        self.frames.append(frame)
        self.boxes_px.append(seen.boxes_px[face])
        self.scores.append(float(seen.scores[face]))
        self.landmarks_px.append(seen.landmarks_px[face])
        self.embeddings.append(seen.embeddings[face])
        self.sharpness.append(float(seen.sharpness[face]))
        self.angles_deg.append(seen.angles_deg[face])

    def qualities(self) -> Float[np.ndarray, " looks"]:
        """Weigh every look by what an embedding is worth: sharp, frontal, surely a face.

        The product of the root of the sharpness (grey levels), the squared cosine of the yaw and
        the detector's score, floored so that no look weighs nothing.
        """
        frontal = np.cos(np.radians([angles[0] for angles in self.angles_deg])) ** 2
        sharp = np.sqrt(np.maximum(self.sharpness, 0.0))
        return np.asarray(np.maximum(sharp * frontal * np.maximum(self.scores, 0.0), 1e-3))

    def template(self, metric: Literal["l2", "cosine"]) -> Float32[np.ndarray, " dim"]:
        """Return the mean embedding, weighted by quality; of unit vectors, where angles count."""
        vectors = np.stack(self.embeddings).astype(np.float64)
        if metric == "cosine":
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        mean = np.average(vectors, axis=0, weights=self.qualities())
        return np.asarray(mean, dtype=np.float32)


class Tracker:
    """Join the faces of successive looks into tracks, all pairs of a look at once.

    A face continues a track if it is where the track's last face was and does not look like
    somebody else, or if it looks like the track's face wherever it is: the threshold of the
    embedder decides, 15 % to either side. Among what is possible the least sum of (1 - IoU) and
    relative distance is taken (Hungarian assignment). ConsisID follows boxes alone, and takes two
    people who change places for one.

    Args:
        settings: Overlap, gap, and how often a track must be seen.
        metric: How the embedder's vectors are compared.
        same_person_below: The embedder's threshold.

    References:
        Bewley et al., "Simple online and realtime tracking", arXiv:1602.00763; Wojke et al.,
        "Simple online and realtime tracking with a deep association metric", arXiv:1703.07402.
        Without their motion model: at five looks a second a face overlaps with itself.
    """

    def __init__(
        self, settings: VideoSettings, metric: Literal["l2", "cosine"], same_person_below: float
    ) -> None:
        self._settings, self._metric = settings, metric
        self._same_below = same_person_below
        self._look = 0
        self._tracks: list[Track] = []

    def push(self, frame: int, seen: Seen) -> None:
        """Take the faces of the next look."""
        patience = self._settings.max_gap + 1
        live = [track for track in self._tracks if self._look - track.last_look <= patience]
        costs_TF = np.array([self._costs(track, seen) for track in live])
        costs_TF = costs_TF.reshape(len(live), len(seen.boxes_px))
        new = set(range(len(seen.boxes_px)))
        for at, face in zip(*linear_sum_assignment(costs_TF), strict=True):
            if costs_TF[at, face] < _NEVER:
                live[at].add(self._look, frame, seen, int(face))
                new.discard(int(face))
        for face in sorted(new):
            self._tracks.append(Track())
            self._tracks[-1].add(self._look, frame, seen, face)
        self._look += 1

    def finish(self) -> list[Track]:
        """Return the tracks that were seen often enough, in the order of their first faces."""
        least = self._settings.min_track_looks
        return [track for track in self._tracks if len(track.frames) >= least]

    def _costs(self, track: Track, seen: Seen) -> Float[np.ndarray, " faces"]:
        """Say how ill each face would continue a track."""
        overlaps_F = overlap(track.boxes_px[-1], seen.boxes_px)
        known = np.stack([track.template(self._metric), track.embeddings[-1]])
        ours, theirs = np.broadcast_arrays(known[:, None], seen.embeddings[None])
        pairs = distance(ours, theirs, self._metric)
        unlike_F = pairs.min(axis=0) / self._same_below
        near_F = (overlaps_F >= self._settings.iou) & (unlike_F < _STRANGER)
        possible_F = near_F | (unlike_F < _LOOKS_ALIKE)
        return np.where(possible_F, 1 - overlaps_F + unlike_F, _NEVER).astype(np.float64)


def overlap(
    box_px: Float32[np.ndarray, "4"], others_px: Float32[np.ndarray, "faces 4"]
) -> Float[np.ndarray, " faces"]:
    """Return the share of their union that a box has in common with each of the others."""
    low = np.maximum(box_px[:2], others_px[:, :2])
    high = np.minimum(box_px[2:], others_px[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    areas = (others_px[:, 2:] - others_px[:, :2]).prod(axis=1)
    union = (box_px[2:] - box_px[:2]).prod() + areas - common
    return np.asarray(common / np.maximum(union, 1e-9), dtype=np.float64)
