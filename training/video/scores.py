"""Score videos of people: likeness, motion, consistency, and what their prompts say of them.

Videos pass one by one, so that any number of them fits memory. A score is over people, each with
one video; what cannot be had is absent, with the reason.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from stages.types import RGB
from training.evaluation.findings import Evaluation
from training.evaluation.metrics import cosines, mean_score
from training.evaluation.recognise import Recogniser
from training.evaluation.scorers import Scorer
from training.evaluation.sheets import SHOWN, Row, thumbnail
from training.video.fvd import I3D
from training.video.inception import Inception, squared_distances
from training.video.metrics import neighbours_alike, published_clip_score, spread
from training.video.motion import Flow, Frames, measure_motion
from training.video.people import People
from training.video.sets import VideoSet, compare_sets

_ON_SHEET = ("first", "1/4", "middle", "3/4", "last")
"""Frames of each video that the contact sheet shows."""
_TOO_SHORT = "no video has two frames of 16 px or more"


@dataclass(frozen=True, kw_only=True)
class References:
    """Whom the videos are to be of, one each, in their order."""

    identity: Float[np.ndarray, "videos dim"]
    """Raw vectors, as the encoder gives them."""
    second: Float[np.ndarray, "videos dim"] | None = None
    """Of another real clip of each; says how alike a person can be."""
    pictures: Sequence[RGB] | None = None
    """A real picture of each."""
    prompts: Sequence[str] | None = None
    """What was asked for in words; empty for who was asked for without."""
    real: Iterable[Frames] = ()
    """Real videos of the same people, for distances between sets and to compare the motion."""


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What measures, beside the recogniser; a score whose encoder is None is absent."""

    fps: float
    """Frames per second at which all videos play."""
    flow: Flow
    clip: Scorer | None = None
    dino: Scorer | None = None
    inception: Inception | None = None
    i3d: I3D | None = None


class _Values(dict[str, list[float]]):
    """One value per video, by the score's name; nan where a video says nothing."""

    def put(self, **values: float) -> None:
        for name, value in values.items():
            self.setdefault(name, []).append(value)


def score_videos(
    videos: Iterable[Frames], references: References, recogniser: Recogniser, measures: Measures
) -> Evaluation:
    """Score one video of each person.

    FaceSim looks at 16 frames of each, as ConsisID does; motion, CLIP's and DINO's scores look at
    all. Faces are found and embedded as the corpus' were: ConsisID has insightface, and a second
    look at a padded picture where no face is found, which is not done here.

    Args:
        videos: As many as there are references; read once.
        references: Whom they are to be of.
        recogniser: Who tells people apart.
        measures: What else measures.

    Returns:
        Scores with intervals over people, and the rows of a contact sheet.
    """
    found, seen = Evaluation(), _Values()
    who = People(recogniser, references.identity)
    drawn = VideoSet(measures.inception, measures.i3d)
    words, cut = _words(references, measures.clip)
    people = range(len(references.identity))
    for frames, person in zip(videos, people, strict=True):
        looks = who.look(frames)
        moves = measure_motion(frames, measures.fps, measures.flow)
        seen.put(
            motion=moves.per_s, dynamic_degree=moves.dynamic, motion_smoothness=moves.smoothness
        )
        picture = references.pictures[person] if references.pictures is not None else None
        prompt = None if words is None else words[person : person + 1]
        _view(seen, frames, picture, prompt, measures)
        if measures.inception is not None and picture is not None:
            seen.put(fid_published=_published_fid(frames, picture, measures.inception))
        drawn.add(frames)
        if person < SHOWN:
            found.rows.append(_row(frames, *looks, picture))
    who.conclude(found, references.second)
    for name, why in _reasons(references, measures).items():
        if name in seen:
            found.mean(name, np.array(seen[name]), why)
        else:
            found.absent[name] = why
    _compare_with_real(found, drawn, references, measures)
    if cut:
        found.notes.append(f"CLIP-T: {cut} of {len(people)} prompts are longer than CLIP reads.")
    return found


def _words(
    references: References, clip: Scorer | None
) -> tuple[Float[np.ndarray, "videos dim"] | None, int]:
    """Embed the prompts, nan for who has none; also return how many were cut."""
    if clip is None or references.prompts is None:
        return None, 0
    vectors, cut = clip.prompts(list(references.prompts))
    said = np.array([prompt != "" for prompt in references.prompts])
    return np.where(said[:, None], vectors, np.nan), cut


def _view(
    seen: _Values,
    frames: Frames,
    picture: RGB | None,
    prompt: Float[np.ndarray, "1 dim"] | None,
    measures: Measures,
) -> None:
    """Compare frames with each other, with the reference picture and with the prompt."""
    if measures.dino is not None:
        seen.put(subject_consistency=neighbours_alike(measures.dino.pictures(frames)))
    if (clip := measures.clip) is None:
        return
    vectors = clip.pictures(frames)
    seen.put(temporal_consistency=neighbours_alike(vectors))
    if picture is not None:
        view = np.repeat(clip.pictures(picture[None]), len(vectors), axis=0)
        seen.put(clip_i=float(cosines(vectors, view).mean()))
    if prompt is not None:
        said = np.repeat(prompt, len(vectors), axis=0)
        seen.put(
            clip_t=float(cosines(vectors, said).mean()),
            clipscore_published=published_clip_score(frames, prompt, clip),
        )


def _published_fid(frames: Frames, picture: RGB, inception: Inception) -> float:
    """Return what ConsisID calls the FID of a video; nan where the reference shows no face."""
    own, crops = inception.faces(picture[None]), inception.faces(frames[spread(len(frames))])
    if not len(own):
        return float("nan")
    if not len(crops):
        return 0.0  # as published: the best of all distances
    reference = inception(own, published=True)[0]
    return float(squared_distances(inception(crops, published=True), reference).mean())


def _row(
    frames: Frames,
    looked_at: Int64[np.ndarray, " looks"],
    similar: Float[np.ndarray, " looks"],
    picture: RGB | None,
) -> Row:
    """Show some frames of a video, with the cosine to the reference below each."""
    places = np.linspace(0, len(looked_at) - 1, len(_ON_SHEET)).round().astype(int)
    cells = [] if picture is None else [("reference", thumbnail(picture), "")]
    for heading, place in zip(_ON_SHEET, places, strict=True):
        words = "no face" if np.isnan(similar[place]) else f"{similar[place]:.2f}"
        cells.append((heading, thumbnail(frames[looked_at[place]]), words))
    return Row(cells)


def _reasons(references: References, measures: Measures) -> dict[str, str]:
    """Name every score of single videos, with the reason if no video has it."""
    worded = "nothing was asked for in words"
    if references.prompts is not None:
        worded = "every prompt is empty"
    pictured = "there are no pictures of the references"
    if references.pictures is not None:
        pictured = "the detector sees no face in any picture of a reference"
    no_clip = "no --clip was given" if measures.clip is None else ""
    no_inception = "no --inception was given" if measures.inception is None else ""
    motion = ("motion", "dynamic_degree", "motion_smoothness")
    return dict.fromkeys(motion, _TOO_SHORT) | {
        "temporal_consistency": no_clip or _TOO_SHORT,
        "subject_consistency": "no --dino was given" if measures.dino is None else _TOO_SHORT,
        "clip_t": no_clip or worded,
        "clip_i": no_clip or pictured,
        "clipscore_published": no_clip or worded,
        "fid_published": no_inception or pictured,
    }


def _compare_with_real(
    found: Evaluation, drawn: VideoSet, references: References, measures: Measures
) -> None:
    """Measure the real videos too, and compare the two sets."""
    real, moves = VideoSet(measures.inception, measures.i3d), []
    for frames in references.real:
        real.add(frames)
        moves.append(measure_motion(frames, measures.fps, measures.flow).per_s)
    why = _TOO_SHORT if moves else "there are no real videos to compare with"
    found.put("motion_real", mean_score(np.array(moves, dtype=np.float64)), why)
    compare_sets(found, drawn, real)
