"""One curated clip to what is trained on: windows of cut frames, and where the face is in them.

Shapes: F frames of a window.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from pipelines.video.exported import Clip, Track, frames_of
from pipelines.video.prepare_recipes import VideoPrepareRecipe, sides_px
from stages.models.backend import load_embedder
from stages.models.faces import SCHEMES, LandmarkScheme
from stages.types import RGB
from stages.video.masks import face_ellipse
from training.aspects import nearest_aspect
from training.crops import Window, arcface_crop, covering
from training.video.windows import windows, wrong_with

MAX_GAP_S = 1.0
"""A face that is not found for longer is not there in between."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A window of a clip, cut as it is trained on."""

    id: str
    clip: Clip
    bucket: int
    start: int
    """Its first frame, of the clip."""
    end: int
    """The first frame of the clip that is behind it."""
    frames: list[RGB]
    landmarks_px: Float32[np.ndarray, "F 5 2"]
    """Where the five points lie in ``frames``; zeros where the face is not seen."""
    seen: Bool[np.ndarray, " F"]
    identity: Float32[np.ndarray, " dim"]
    """Of the reference face: the best of the window."""
    face: RGB
    """The reference face, aligned."""
    reference: RGB
    """The same as large as a frame, black beside it."""

    def masks(self) -> Bool[np.ndarray, "F height width"]:
        """Return where the face is; see ``stages.video.masks``."""
        scheme = SCHEMES[backend_of(self.clip)]
        high, wide = self.frames[0].shape[:2]
        out = np.zeros((len(self.frames), high, wide), dtype=np.bool_)
        for frame in np.flatnonzero(self.seen):
            out[frame] = face_ellipse(self.landmarks_px[frame], scheme, (high, wide))
        return out


def backend_of(clip: Clip) -> str:
    """Return whose vectors and landmarks a clip has."""
    return "dlib" if clip.embedder.startswith("dlib") else "insightface"


def bucket_of(clip: Clip, recipe: VideoPrepareRecipe) -> int:
    """Return the number of the size that a clip goes to."""
    sizes = [sides_px(size) for size in recipe.sizes]
    return nearest_aspect(clip.width_px, clip.height_px, sizes)


def samples_of(
    export: str, clip: Clip, recipe: VideoPrepareRecipe, counts: Counter[str]
) -> list[Sample]:
    """Cut the windows of a clip in which its main face is; count what is left out, by reason."""
    looked = np.array(clip.main.frames) - clip.start_frame
    main = next(n for n, t in enumerate(clip.tracks) if t.track_id == clip.main_track)
    from infra.storage import open_folder

    size_px = sides_px(recipe.sizes[bucket_of(clip, recipe)])
    if _enlarged(clip, clip.main, size_px) > recipe.max_enlarge > 0:
        counts["too_small"] += 1
        return []
    chosen = windows(
        clip.frames,
        clip.fps,
        recipe.frames,
        recipe.fps,
        most=recipe.windows_per_clip,
        within=(int(looked[0]), int(looked[-1]) + 1),
    )
    if isinstance(chosen, str):
        counts[chosen] += 1
        return []
    made: list[Sample] = []
    home = open_folder(export)
    for indices in chosen:
        best = _best_look(clip.main, looked, indices)
        pixels = frames_of(home, clip, [*indices.tolist(), int(looked[best])])
        sample = _cut(clip, indices, pixels, best, recipe)
        # Between two looks a face is there too.
        there = [indices[landmarks_at(clip, t, indices)[1]].tolist() for t in clip.tracks]
        wrong = wrong_with(indices, there, main, sample.masks())
        if wrong and (recipe.alone or wrong != "several_people"):
            counts[wrong] += 1
        else:
            made.append(sample)
    return made


def landmarks_at(
    clip: Clip, track: Track, frames: Int64[np.ndarray, " F"]
) -> tuple[Float32[np.ndarray, "F 5 2"], Bool[np.ndarray, " F"]]:
    """Return a face's landmarks in some frames of a clip, and in which it is seen.

    Between two looks they move on a straight line, if these are not too far apart.
    """
    looked = np.array(track.frames) - clip.start_frame
    points = np.array(track.landmarks_px, dtype=np.float32).reshape(len(looked), 10)
    after = np.searchsorted(looked, frames).clip(0, len(looked) - 1)
    before = (after - (looked[after] > frames)).clip(0)
    gap = looked[after] - looked[before]
    inside = (frames >= looked[0]) & (frames <= looked[-1])
    seen = inside & (gap <= MAX_GAP_S * clip.fps)
    at = np.stack([np.interp(frames, looked, column) for column in points.T], axis=1)
    landmarks = (at * seen[:, None]).reshape(len(frames), 5, 2).astype(np.float32)
    return landmarks, seen


def _cut(
    clip: Clip,
    indices: Int64[np.ndarray, " F"],
    pixels: Sequence[RGB],
    best: int,
    recipe: VideoPrepareRecipe,
) -> Sample:
    """Cut frames, and the face of the look ``best``, which is in the last of ``pixels``."""
    bucket, track = bucket_of(clip, recipe), clip.main
    width_px, height_px = sides_px(recipe.sizes[bucket])
    landmarks, seen = landmarks_at(clip, track, indices)
    window = _window(clip, track, (width_px, height_px))
    times = window.scale(width_px, height_px)
    placed = (landmarks - np.array([window.left, window.top])) * times
    embedder = load_embedder(backend_of(clip), recipe.pack, "cpu")
    points = np.array(track.landmarks_px[best], dtype=np.float32).reshape(5, 2)
    scheme = SCHEMES[backend_of(clip)]
    vector = embedder.embed(embedder.align(pixels[-1], points[None]))[0]
    start = int(indices[0])
    return Sample(
        id=f"{clip.id}-{start:06d}",
        clip=clip,
        bucket=bucket,
        start=start,
        end=int(indices[-1]) + 1,
        frames=[window.cut(picture, width_px, height_px) for picture in pixels[:-1]],
        landmarks_px=(placed * seen[:, None, None]).astype(np.float32),
        seen=seen,
        identity=np.asarray(vector, dtype=np.float32),
        face=arcface_crop(pixels[-1], points, scheme),
        reference=_shown(pixels[-1], points, scheme, width_px, height_px),
    )


def _best_look(
    track: Track, looked: Int64[np.ndarray, " looks"], indices: Int64[np.ndarray, " F"]
) -> int:
    """Choose the look at which a window's reference face is taken.

    The best inside the window; where nobody looked inside, the nearest.
    """
    inside = np.flatnonzero((looked >= indices[0]) & (looked <= indices[-1]))
    if len(inside):
        return max(inside.tolist(), key=lambda look: _worth(track, look))
    return int(np.abs(looked - indices.mean()).argmin())


def _worth(track: Track, look: int) -> float:
    """Say how good a look is to know somebody by: frontal, then sharp."""
    turned = abs(track.yaws_deg[look]) + abs(track.pitches_deg[look])
    return float(track.sharpness[look] ** 0.25 * np.cos(np.radians(min(turned, 90))))


def _window(clip: Clip, track: Track, size_px: tuple[int, int]) -> Window:
    """Find one window for all frames of a clip: a moving one would be motion of its own."""
    box = np.median(np.array(track.boxes_px, dtype=np.float32), axis=0).astype(np.float32)
    return covering((clip.width_px, clip.height_px), box, size_px)


def _enlarged(clip: Clip, track: Track, size_px: tuple[int, int]) -> float:
    return float(_window(clip, track, size_px).scale(*size_px).max())


def _shown(
    picture: RGB,
    points: Float32[np.ndarray, "5 2"],
    scheme: LandmarkScheme,
    width_px: int,
    height_px: int,
) -> RGB:
    """Put the aligned face into the middle of a black picture."""
    side = min(width_px, height_px)
    shown = np.zeros((height_px, width_px, 3), dtype=np.uint8)
    top, left = (height_px - side) // 2, (width_px - side) // 2
    shown[top : top + side, left : left + side] = arcface_crop(picture, points, scheme, side)
    return shown
