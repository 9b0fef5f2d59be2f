"""The stage that captions clips of videos: looks from one frame, action from many."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.captions.alt import clean
from stages.captions.ask import Captioner, Clip, Frame, describe_clips
from stages.captions.settings import CaptionSettings
from stages.captions.stage import CAPTIONED, Match, answered, blank, compare, settle
from stages.captions.template import describe_clip
from stages.types import RGB, Batch
from stages.video.decode import BadVideo, Video
from stages.video.settings import VideoSettings

_ANY = VideoSettings(max_minutes=1e6, max_megapixels=1e6)
"""Clips have been looked at already: nothing of them is refused for its size."""


class CaptionClips:
    """Write a caption for every clip, or say why it is no good.

    As ID-Animator does it: ``attributes`` are asked of the frame that shows the main person best,
    ``action`` of frames from the clip's whole length, and ``merged`` of the two answers.

    Args:
        settings: Who writes, and what is asked of a caption.
        captioner: Makes the model that sees, where ``settings`` wants one.
        match: Makes the model that compares caption and best frame, where ``settings`` wants one.

    References:
        ID-Animator, arXiv:2404.15275, section 3.3.
    """

    reads = ("caption", "label", "clip")
    writes = (*CAPTIONED, "rejected_by", "error", "error_detail")

    def __init__(
        self,
        settings: CaptionSettings,
        captioner: Callable[[], Captioner] | None = None,
        match: Callable[[], Match] | None = None,
    ) -> None:
        self.settings = settings
        self._captioner = captioner() if captioner else None
        self._match = match() if match else None

    def __call__(self, batch: Batch) -> Batch:
        """Caption every clip of ``batch``; ``clip`` is what ``measure`` returns, with ``path``."""
        clips: list[Mapping[str, Any]] = list(batch["clip"])
        told: list[dict[str, Any]] = [blank() for _ in clips]
        shown = [self._shown(clip, out) for clip, out in zip(clips, told, strict=True)]
        if self._captioner is not None:
            seen = [(each, out) for each, out in zip(shown, told, strict=True) if each]
            answers = describe_clips(
                self._captioner, [each for each, _ in seen], parts=self.settings.parts
            )
            for (_, out), answer in zip(seen, answers, strict=True):
                out |= answered(answer, self.settings.backend)
        else:
            for clip, out, text in zip(clips, told, batch["caption"], strict=True):
                template = self.settings.backend == "template"
                words = describe_clip(clip) if template else {"merged": clean(str(text or ""))}
                out |= {f"caption_{name}": said for name, said in words.items()}
                out["caption_source"] = self.settings.backend
        for out, label in zip(told, batch["label"], strict=True):
            settle(out, self.settings, str(label or ""))
        if self._match is not None:
            compare(
                self._match, self.settings, [each.best if each else None for each in shown], told
            )
        return {name: [out[name] for out in told] for name in self.writes}

    def _shown(self, clip: Mapping[str, Any], out: dict[str, Any]) -> Clip | None:
        """Decode what the model is shown, once; None where nobody looks, or the clip is broken."""
        if self._captioner is None and self._match is None:
            return None
        best = int(clip["best_frame"])
        count = self.settings.clip_frames if self._captioner else 0
        wanted = sampled(int(clip["frames"]), count)
        try:
            held = read_frames(Path(clip["path"]), {best, *wanted}, self.settings.picture_px)
        except BadVideo as problem:
            out |= {"error": problem.error, "error_detail": problem.detail}
            return None
        frames = {number: Frame(pixels) for number, pixels in held.items()}
        return Clip(frames[best], tuple(frames[number] for number in wanted))


def sampled(frames: int, count: int) -> list[int]:
    """Return the middle frames of ``count`` stretches of equal length; of a short clip fewer."""
    count = min(count, frames)
    return [(2 * at + 1) * frames // (2 * count) for at in range(count)]


def read_frames(path: Path, wanted: set[int], long_px: int) -> dict[int, RGB]:
    """Decode some frames of a clip, as far as the last of them.

    Args:
        path: The clip's file.
        wanted: Numbers of frames, from 0.
        long_px: Long side of what is returned, at most.

    Raises:
        BadVideo: The file is gone or damaged, or too short.
    """
    found: dict[int, RGB] = {}
    try:
        with path.open("rb") as file, Video(file, _ANY) as video:
            for frame in video:
                if frame.index in wanted:
                    found[frame.index] = frame.rgb(long_px)
                if len(found) == len(wanted):
                    break
    except FileNotFoundError:
        raise BadVideo("missing_file", f"the clip {path.name} is gone") from None
    if missing := sorted(wanted - set(found)):
        raise BadVideo("broken_video", f"the clip {path.name} has no frame {missing[0]}")
    return found


def measure(clip: Mapping[str, Any]) -> dict[str, Any]:
    """Return what captions need of a clip: what the template tells of, and its best frame.

    Args:
        clip: width_px, height_px, fps, frames, start_frame, camera_motion, person_motion and
            tracks, as ``stages/video/rows.py`` has them; main_track, where that is known.
    """
    tracks: Sequence[Mapping[str, Any]] = clip["tracks"] or ()
    told = {name: clip[name] for name in ("width_px", "height_px", "frames", "person_motion")} | {
        "seconds": clip["frames"] / clip["fps"],
        "camera_motion": clip["camera_motion"] or 0.0,
        "people": _at_once(tracks),
        "best_frame": clip["frames"] // 2,
        **dict.fromkeys(("face_share", "yaw_deg", "pitch_deg", "roll_deg", "turn_deg"), 0.0),
    }
    if not tracks:
        return told
    main = next((t for t in tracks if t["track_id"] == clip.get("main_track")), None)
    main = main or max(tracks, key=lambda track: _areas_px(track).sum())
    yaws = np.array(main["yaws_deg"], np.float64)
    share = np.median(_areas_px(main)) / (clip["width_px"] * clip["height_px"])
    return told | {
        "best_frame": main["best_frame"] - clip["start_frame"],
        "face_share": float(share),
        "turn_deg": float(np.ptp(np.percentile(yaws, (10, 90)))),
        **{f"{name}_deg": float(np.median(main[f"{plural}_deg"])) for name, plural in
           (("yaw", "yaws"), ("pitch", "pitches"), ("roll", "rolls"))},
    }  # fmt: skip


def _areas_px(track: Mapping[str, Any]) -> Any:  # noqa: ANN401 - one number per look
    left, top, right, bottom = np.array(track["boxes_px"], np.float64).T
    return (right - left) * (bottom - top)


def _at_once(tracks: Sequence[Mapping[str, Any]]) -> int:
    """Count the tracks that are there at the same time, at most: two in turn may be one person."""
    return max(
        (
            sum(t["start_frame"] <= one["start_frame"] < t["end_frame"] for t in tracks)
            for one in tracks
        ),
        default=0,
    )
