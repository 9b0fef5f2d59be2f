"""Who is in the videos: FaceSim over frames, and whether one's own reference is the nearest."""

import numpy as np
from jaxtyping import Float, Int64

from training.evaluation.findings import Evaluation
from training.evaluation.metrics import auc_score, face_sim, lowest_tenth, mean_score, pairwise
from training.evaluation.recognise import Recogniser
from training.video.metrics import Likeness, likeness, spread
from training.video.motion import Frames

_FACELESS = "no face was seen in any frame"


class People:
    """Looks for everybody in a video of their own, and remembers what was seen.

    Args:
        recogniser: Who tells people apart.
        references: Whom the videos are to be of, in their order.
    """

    def __init__(self, recogniser: Recogniser, references: Float[np.ndarray, "videos dim"]) -> None:
        self._recogniser, self._references = recogniser, references
        self._likeness: list[Likeness] = []
        self._vectors: list[Float[np.ndarray, " dim"]] = []
        self._frames = self._faceless = 0

    def look(
        self, frames: Frames
    ) -> tuple[Int64[np.ndarray, " looks"], Float[np.ndarray, " looks"]]:
        """Look for the next person in 16 frames of their video, or in all of fewer.

        Returns:
            In which frames, and the cosine to the reference in each; nan without a face.
        """
        looked_at, shown = np.unique(spread(len(frames)), return_inverse=True)
        seen = self._recogniser.look(frames[looked_at])
        own = np.repeat(self._references[len(self._likeness)][None], len(looked_at), axis=0)
        similar = np.where(seen.found, self._recogniser.similarity(seen.vectors, own), np.nan)
        self._likeness.append(likeness(similar, shown))
        self._frames += len(looked_at)
        self._faceless += int(np.isnan(similar).sum())
        nobody = np.full(seen.vectors.shape[1], np.nan)
        self._vectors.append(seen.vectors[seen.found].mean(0) if seen.found.any() else nobody)
        return looked_at, similar

    def conclude(self, found: Evaluation, second: Float[np.ndarray, "videos dim"] | None) -> None:
        """Add the scores.

        The AUC is of a video's mean vector, so that it says what the pictures' says: a person is
        told from all others, at whatever cosine the encoder gives to one person.

        Args:
            found: Gets them.
            second: Vectors of other real clips of the same people, for the ceilings.
        """
        each = {
            "facesim": "mean", "facesim_frames_p10": "p10", "facesim_frames_std": "deviation",
            "facesim_published": "published", "face_share": "face_share",
        }  # fmt: skip
        for name, which in each.items():
            found.mean(name, np.array([getattr(like, which) for like in self._likeness]))
        kept = found.each["facesim"]
        found.put("facesim_p10", mean_score(kept, statistic=lowest_tenth), _FACELESS)
        alone = len(self._references) < 2
        why = "one person has nobody to be told from" if alone else _FACELESS
        metric = self._recogniser.metric
        between = pairwise(np.stack(self._vectors), self._references, metric)
        score, wins = auc_score(between)
        found.put("auc", score, why, wins)
        if second is None:
            ceilings = ("facesim_ceiling", "auc_ceiling")
            found.absent |= dict.fromkeys(ceilings, "held-out people have one clip each")
        else:
            real = self._recogniser.similarity(second, self._references)
            found.mean("facesim_ceiling", face_sim(real))
            far = pairwise(second, self._references, metric)
            found.put("auc_ceiling", auc_score(far)[0], why)
        if self._faceless:
            found.notes.append(
                f"{self._faceless} of {self._frames} frames that were looked at show no face that "
                "the detector sees: they count as 0, and are left out of what is published."
            )
