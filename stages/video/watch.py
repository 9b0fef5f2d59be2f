"""Watch videos: one pass from bytes to shots, clips and the tracks of their faces."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from stages.models.faces import Detector, Embedder
from stages.pose import head_pose
from stages.sharpness import laplacian_variance
from stages.types import Batch
from stages.video.clips import ClipFile, clip_id
from stages.video.decode import BadVideo, Video
from stages.video.frames import Frame
from stages.video.scores import ClipScores, TextReader
from stages.video.settings import VideoSettings
from stages.video.shots import Kept, Shot, cut
from stages.video.sources import READS, opened
from stages.video.tracks import Seen, Track, Tracker

_CHIPS_HELD = 64
"""Faces that wait to be embedded together, at most about: 4 MiB."""


class Watch:
    """Turn every video into its facts, shots and clips, each with scores and face tracks.

    A video is decoded once, and of its frames only the few are held that the shot finder has not
    decided on. Each frame that belongs into a clip is encoded, scored, and every n-th of a clip is
    searched for faces. What is shorter than ``min_clip_s`` is dropped again; its shot stays in the
    list of shots.

    A clip's file gets its name when its whole video has been watched: a video that breaks in its
    middle leaves an error and no clips, and a process that is killed leaves files ending in
    ``.part``, which the next try of the same video removes.

    Args:
        folder: Where clips are written, as ``<clip_id>.mp4``; made if it is not there.
        settings: Limits, cuts, clips, tracks.
        make_detector: Called once, in the worker; loads the weights.
        make_embedder: Called once, in the worker; loads the weights.
        make_text_reader: Called once, in the worker; without, ``text_share`` is null.
    """

    reads = ("id", *READS)
    writes = ("video", "shots", "clips", "decoded_frames", "error", "error_detail")

    def __init__(
        self,
        folder: Path,
        settings: VideoSettings,
        make_detector: Callable[[], Detector],
        make_embedder: Callable[[], Embedder],
        make_text_reader: Callable[[], TextReader] | None = None,
    ) -> None:
        self.folder, self.settings = folder, settings
        self.detector, self.embedder = make_detector(), make_embedder()
        self.text_reader = make_text_reader() if make_text_reader else None
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, batch: Batch) -> Batch:
        """Watch the videos of ``batch`` one after the other.

        Raises:
            OSError: The folder cannot be written; that is no fault of a video.
        """
        rows = [
            self._row(dict(zip(self.reads, values, strict=True)))
            for values in zip(*(batch[name] for name in self.reads), strict=True)
        ]
        return {name: [row[name] for row in rows] for name in self.writes}

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        """Watch one video, and keep its clips only if it was good to its end."""
        parts = self.folder / f".{blake2b(row['id'].encode(), digest_size=16).hexdigest()}"
        _remove(parts)
        out: dict[str, Any] = dict.fromkeys(self.writes)
        video: Video | None = None
        try:
            with opened(row) as file, Video(file, self.settings) as video:
                shots, clips = self._shots(video, row["id"], parts)
                out |= {"video": asdict(video.facts), "shots": [asdict(shot) for shot in shots]}
        except BadVideo as problem:
            _remove(parts)
            decoded = video.decoded if video else 0
            said = {"error": problem.error, "error_detail": problem.detail}
            return out | said | {"decoded_frames": decoded}
        except BaseException:
            _remove(parts)
            raise
        for clip in clips:
            _part(parts, clip["start_frame"]).replace(self.folder / clip["file"])
        done = {"clips": clips, "decoded_frames": video.decoded}
        return out | done | {"error": "", "error_detail": ""}

    def _shots(
        self, video: Video, video_id: str, parts: Path
    ) -> tuple[list[Shot], list[dict[str, Any]]]:
        """Watch all frames; return the shots, and what is written of each clip."""
        shots: list[Shot] = []
        clips: list[dict[str, Any]] = []
        # One clip at a time: each holds an encoder of some megabytes.
        clip: _Clip | None = None
        for item in cut(video, self.settings):
            full = clip and isinstance(item, Kept) and clip.is_full(item.frame)
            if clip and (full or isinstance(item, Shot)):
                ends_s = item.frame.time_s if isinstance(item, Kept) else None
                row = clip.finish(video_id, ends_s)
                clips += [row] if row else []
                clip = None
            if isinstance(item, Shot):
                shots.append(item)
                continue
            if clip is None:
                clip = _Clip(self, video, item.frame, _part(parts, item.frame.index))
            clip.add(item)
        return shots, clips


def _part(parts: Path, start_frame: int) -> Path:
    """Return where a clip is written while its video is not known to be good."""
    return parts.with_name(f"{parts.name}-{start_frame}.part")


def _remove(parts: Path) -> None:
    """Delete what an unfinished try of a video has written."""
    for left_over in parts.parent.glob(f"{parts.name}-*.part"):
        left_over.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Look:
    """The faces of a frame, in pixels of the video, before it is known whose they are."""

    frame: int
    boxes_px: Float32[np.ndarray, "faces 4"]
    scores: Float32[np.ndarray, " faces"]
    landmarks_px: Float32[np.ndarray, "faces 5 2"]
    chips: UInt8[np.ndarray, "faces side side 3"]


class _Clip:
    """One clip that is being watched."""

    def __init__(self, watch: Watch, video: Video, first: Frame, path: Path) -> None:
        self._watch, self._first, self._last = watch, first, first
        self._file = ClipFile(path, video.time_base, video.mean_fps, watch.settings)
        self._scores = ClipScores(first.width_px, first.height_px, watch.text_reader)
        embedder = watch.embedder
        self._tracker = Tracker(watch.settings, embedder.metric, embedder.same_person_below)
        self._step_s = 1 / video.mean_fps
        self._held: list[_Look] = []

    def is_full(self, frame: Frame) -> bool:
        """Whether a frame is too late for this clip."""
        return frame.time_s - self._first.time_s >= self._watch.settings.max_clip_s

    def add(self, kept: Kept) -> None:
        """Encode, score and, every n-th time, search the next frame."""
        frame = kept.frame
        self._last = frame
        self._scores.add(kept.small, frame.time_s)
        if (frame.index - self._first.index) % self._watch.settings.detect_every == 0:
            self._look(frame)
        self._file.add(frame)

    def finish(self, video_id: str, ends_s: float | None) -> dict[str, Any] | None:
        """Describe the clip; one that is too short is deleted, and None returned.

        Args:
            video_id: Of the video.
            ends_s: When the frame behind the last is shown; unknown, a mean step is taken.
        """
        start, end = self._first.index, self._last.index + 1
        start_s, last_s = self._first.time_s, self._last.time_s
        if ends_s is None:
            step_s = last_s / self._last.index if self._last.index else self._step_s
            ends_s = last_s + step_s
        if ends_s - start_s < self._watch.settings.min_clip_s:
            self._file.discard()
            return None
        self._follow()
        name = clip_id(video_id, start, end)
        written = self._file.close()
        scores = asdict(self._scores.finish())
        scores["letterbox_px"] = list(scores["letterbox_px"])
        return {
            "clip_id": name, "start_frame": start, "end_frame": end, "start_s": start_s,
            "end_s": ends_s, "file": f"{name}.mp4", "fps": (end - start) / (ends_s - start_s),
            **asdict(written), **scores,
            "tracks": [self._describe(i, t) for i, t in enumerate(self._tracker.finish())],
        }  # fmt: skip

    def _look(self, frame: Frame) -> None:
        """Search a frame for faces, and hold their crops until there are enough to embed."""
        watch = self._watch
        picture = frame.rgb(watch.settings.work_px)
        (faces,) = watch.detector.detect([picture])
        chips = watch.embedder.align(picture, faces.landmarks_px)
        high, wide = picture.shape[:2]
        shown_px = np.array([wide, high], dtype=np.float32)
        self._scores.look(picture, faces.boxes_px / np.tile(shown_px, 2))
        scale = np.array([frame.width_px, frame.height_px], dtype=np.float32) / shown_px
        self._held.append(
            _Look(
                frame.index,
                faces.boxes_px * np.tile(scale, 2),
                faces.scores,
                faces.landmarks_px * scale,
                chips,
            )
        )
        if sum(len(look.chips) for look in self._held) >= _CHIPS_HELD:
            self._follow()

    def _follow(self) -> None:
        """Embed what is held in one call of the network, and follow the faces through it."""
        if not self._held:
            return
        vectors = self._watch.embedder.embed(np.concatenate([look.chips for look in self._held]))
        ends = np.cumsum([len(look.chips) for look in self._held])
        for look, embeddings in zip(self._held, np.split(vectors, ends[:-1]), strict=True):
            seen = Seen(
                boxes_px=look.boxes_px,
                scores=look.scores,
                landmarks_px=look.landmarks_px,
                embeddings=embeddings,
                sharpness=laplacian_variance(look.chips),
                angles_deg=head_pose(look.landmarks_px, self._watch.detector.scheme),
            )
            self._tracker.push(look.frame, seen)
        self._held.clear()

    def _describe(self, number: int, track: Track) -> dict[str, Any]:
        """Return a track as it is written."""
        yaws, pitches, rolls = np.stack(track.angles_deg, axis=1).tolist()
        best = int(np.argmax(track.qualities()))
        return {
            "track_id": number,
            "start_frame": track.frames[0],
            "end_frame": track.frames[-1] + 1,
            "frames": track.frames,
            "boxes_px": np.stack(track.boxes_px).tolist(),
            "scores": track.scores,
            "landmarks_px": np.stack(track.landmarks_px).reshape(-1, 10).tolist(),
            "yaws_deg": yaws,
            "pitches_deg": pitches,
            "rolls_deg": rolls,
            "sharpness": track.sharpness,
            "embedding": track.template(self._watch.embedder.metric).tolist(),
            "template_count": len(track.frames),
            "best_frame": track.frames[best],
        }
