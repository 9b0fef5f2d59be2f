"""Which moment shows the face of which stretch of film: pairs for training across faces.

A reference is never inside its target: from another clip of the person where there is one, of
another video first; and from another moment of the same clip, where the clip is long enough.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Literal

import numpy as np
from jaxtyping import Float

from pipelines.video.exported import Clip, Pair, Track
from pipelines.video.recipes import VideoPairSettings


def pair_clips(clips: Sequence[Clip], settings: VideoPairSettings) -> list[Pair]:
    """Pair every clip whose main person is somebody; the order of the clips does not matter.

    ConsisID takes references from the clip itself, of the surest detections; ID-Animator draws
    them from the clip at random. Here the look is taken that is worth most for knowing the face:
    sharp, frontal, surely a face.

    Args:
        clips: Kept clips with the identities of their tracks.
        settings: How long targets are, and how many pairs.
    """
    seen: dict[str, list[tuple[Clip, Track]]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: clip.id):
        for person, track in _by_person(clip).items():
            seen[person].append((clip, track))
    pairs = [
        pair
        for clip in sorted(clips, key=lambda clip: clip.id)
        if clip.person
        for pair in _pairs_of(clip, seen[clip.person], settings)
    ]
    return pairs


def _by_person(clip: Clip) -> dict[str, Track]:
    """Return of every person in a clip the track with the best look."""
    best: dict[str, Track] = {}
    for track in clip.tracks:
        known = best.get(track.person)
        if track.person and (known is None or worth(track).max() > worth(known).max()):
            best[track.person] = track
    return best


def _pairs_of(
    clip: Clip, others: Sequence[tuple[Clip, Track]], settings: VideoPairSettings
) -> Iterator[Pair]:
    start, end, moment = _window(clip, settings)
    if moment is not None:
        yield _pair(clip, start, end, clip, clip.main, moment, "moment")
    ranked = sorted(
        (other for other in others if other[0].id != clip.id),
        key=lambda other: (
            other[0].video_id == clip.video_id,
            _lot(settings.seed, clip.id, other[0].id),
        ),
    )
    for other, track in ranked[: settings.per_clip]:
        yield _pair(clip, start, end, other, track, int(worth(track).argmax()), "clip")


def _window(clip: Clip, settings: VideoPairSettings) -> tuple[int, int, int | None]:
    """Place the target, and find the best look outside of it.

    The target lies at the beginning of what the main person is seen in, or at its end: where the
    better look is left over.

    Returns:
        First frame of the clip in the target, first behind it, and the number of the look; None
        where no look is far enough away.
    """
    looks = np.asarray(clip.main.frames) - clip.start_frame
    length = min(settings.window_frames, clip.frames)
    first = min(int(looks[0]), clip.frames - length)
    last = max(min(int(looks[-1]) + 1, clip.frames) - length, first)
    best: tuple[float, int, int | None] = (-1.0, first, None)
    for start in dict.fromkeys((first, last)):
        apart = np.maximum(start - looks, looks - (start + length - 1))
        value = np.where(apart >= max(settings.min_apart_frames, 1), worth(clip.main), -1.0)
        look = int(value.argmax())
        if value[look] > best[0]:
            best = (float(value[look]), start, look)
    return best[1], best[1] + length, best[2]


def worth(track: Track) -> Float[np.ndarray, " looks"]:
    """Weigh every look of a track as ``stages.video.tracks.Track.qualities`` does."""
    sharp = np.sqrt(np.maximum(track.sharpness, 0.0))
    frontal = np.cos(np.radians(track.yaws_deg)) ** 2
    return np.asarray(np.maximum(sharp * frontal * np.maximum(track.scores, 0.0), 1e-3))


def _pair(
    target: Clip,
    start: int,
    end: int,
    reference: Clip,
    track: Track,
    look: int,
    kind: Literal["clip", "moment"],
) -> Pair:
    return Pair(
        target_clip=target.id,
        target_start_frame=start,
        target_end_frame=end,
        reference_clip=reference.id,
        reference_frame=track.frames[look] - reference.start_frame,
        reference_box_px=list(track.boxes_px[look]),
        kind=kind,
    )


def _lot(seed: int, *ids: str) -> bytes:
    return blake2b("\0".join((str(seed), *ids)).encode(), digest_size=16).digest()
