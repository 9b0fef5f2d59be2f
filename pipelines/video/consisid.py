"""Write clips in the layout of ConsisID's data set, whose loader reads it as it is.

    total_train_data.txt        videos, captions, annotations; relative to this folder
    captions/merge_caption.json a record per clip: path, cap, size, resolution, fps, duration
    refine_bbox_jsons/<clip>.json    by frame: boxes of faces and heads, and whose they are
    track_masks_data/<clip>/
      tracking_mask_results/<person>/annotated_frame_00000.png    1 bit; white is the face
      corresponding_data.json   by person: the folder with the masks of face and head
      control_sam2_frame.json   by person: the frame in which each is seen best
      valid_frame.json          by person: the frames with box and mask; written last

People of a clip are numbered from 1. What differs from ConsisID's own preprocessing:

* It numbers masks by person and part and the loader reads them by person, so that with two people
  it takes the first one's head for the second one's face. Here both numbers are the same.
* A head is no detection: its box is the face's, enlarged, and its masks are the face's. Bodies and
  poses, which the loader does not ask for, are not there.
* Boxes are detected every few frames and move on a straight line between, as the masks do. Every
  frame that is valid for a person has that person's box; the loader else takes the last one's.
* ``duration`` is not rounded down: 49 frames that come out as 48.99 are skipped by the loader.
* Confidences are cut to 0..1; dlib's are margins, not probabilities. The loader's ladder of
  confidences compares numbers with text and so finds none, whatever they are.

Its loader cannot use a clip without a face, so that such a clip gets no record.

References:
    Yuan et al., "Identity-preserving text-to-video generation by frequency decomposition",
    arXiv:2411.17440; PKU-YuanGroup/ConsisID, models/dataloader.py and data_preprocess/.
"""

import io
import json
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float32, Int
from PIL import Image

from infra.storage import Folder
from pipelines.video.exported import Clip, Track, frames_of
from pipelines.video.layouts import CONSISID_FOLDER, LayoutSettings
from stages.models.faces import SCHEMES
from stages.video.masks import EllipseMasker, Masker

if TYPE_CHECKING:
    from stages.types import RGB

LIST_FILE, CAPTIONS_FILE = "total_train_data.txt", "captions/merge_caption.json"
_LINE = f"../clips,{CAPTIONS_FILE},.\n"
_HEAD = np.array([-0.25, -0.45, 0.25, 0.15], dtype=np.float32)
"""How far a head reaches beyond its face's box, in sides of the box: hair above, ears aside."""


def write_consisid(
    export: Folder, clips: Sequence[Clip], settings: LayoutSettings, at_once: int
) -> None:
    """Write the layout beside the clips; see ``write_layouts``."""
    home = export / CONSISID_FOLDER
    done = {path.rsplit("/", 2)[-2] for path in home.files("/valid_frame.json")}
    shown = [clip for clip in clips if clip.tracks]
    todo = [clip for clip in shown if clip.id not in done]
    _remove_others(home, {clip.id for clip in shown})
    if at_once:
        from pipelines.parallel import spread

        gpus = 1.0 if settings.masks == "sam2" and settings.device == "cuda" else 0.0
        for _ in spread(_write_clip, todo, export, settings, at_once=at_once, num_gpus=gpus):
            pass
    else:
        for clip in todo:
            _write_clip(clip, export, settings)
    records = json.dumps([_record(clip) for clip in shown], ensure_ascii=False, indent=1)
    home.write(CAPTIONS_FILE, records + "\n")
    home.write(LIST_FILE, _LINE)


def _remove_others(home: Folder, shown: set[str]) -> None:
    """Delete what there is of clips that are no longer kept, of people who were taken out."""
    for folder in (home / "track_masks_data").folders():
        if folder.name not in shown:
            folder.clear()
    for path in (home / "refine_bbox_jsons").files(".json"):
        if path.rpartition("/")[2].removesuffix(".json") not in shown:
            home.fs.delete_file(path)


def _record(clip: Clip) -> dict[str, Any]:
    """Describe a clip; ``people`` and what follows it is ours."""
    duration_s = clip.frames / clip.fps
    while clip.fps * duration_s < clip.frames:
        duration_s = math.nextafter(duration_s, math.inf)
    return {
        "path": f"{clip.id}.mp4", "cap": clip.caption, "size": clip.bytes_len,
        "resolution": {"height": clip.height_px, "width": clip.width_px},
        "fps": clip.fps, "duration": duration_s,
        "people": {str(_number(track)): track.person for track in clip.tracks},
        "main": _number(clip.main), "attributes": clip.caption_attributes,
        "action": clip.caption_action, "url": clip.url, "license": clip.license,
    }  # fmt: skip


def _write_clip(clip: Clip, export: Folder, settings: LayoutSettings) -> None:
    """Write boxes and masks of one clip."""
    home = export / CONSISID_FOLDER
    masks_home = home / f"track_masks_data/{clip.id}"
    boxes: dict[int, dict[str, list[dict[str, Any]]]] = {}
    numbers, best, valid = {}, {}, {}
    # Only SAM 2 looks at the frames, and then needs all of them at once.
    frames = frames_of(export, clip) if settings.masks == "sam2" else []
    masker = _masker(settings, clip.detector)
    for track in clip.tracks:
        number, boxed = _number(track), _boxes(clip, track)
        series = masks_home / f"tracking_mask_results/{number}"
        shown = []
        for frame, mask in enumerate(_masks(clip, track, masker, frames)):
            series.write(f"annotated_frame_{frame:05d}.png", _png(mask))
            if frame in boxed and mask.any():
                shown.append(frame)
        for frame in shown:
            here = boxes.setdefault(frame, {"face": [], "head": []})
            here["face"].append(boxed[frame]["face"])
            here["head"].append(boxed[frame]["head"])
        if shown:
            # A mask may be empty where the face is seen best: SAM 2 finds what it finds.
            frame = min(shown, key=lambda at: abs(at - track.best_frame + clip.start_frame))
            numbers[number] = {"face": number, "head": number}
            best[number] = {"face": frame, "head": frame}
            valid[number] = {"face": shown, "head": shown}
    by_frame = {str(frame): boxes[frame] for frame in sorted(boxes)}
    (home / "refine_bbox_jsons").write(f"{clip.id}.json", json.dumps(by_frame) + "\n")
    for name, value in {
        "corresponding_data": numbers, "control_sam2_frame": best, "valid_frame": valid,
    }.items():  # fmt: skip
        masks_home.write(f"{name}.json", json.dumps(value) + "\n")


def _number(track: Track) -> int:
    """Return the number of a person in a clip: ConsisID's begin at 1."""
    return track.track_id + 1


def _looks(clip: Clip, track: Track) -> Int[np.ndarray, " looks"]:
    """Return the frames of the clip in which a face was found."""
    return np.array(track.frames) - clip.start_frame


def _boxes(clip: Clip, track: Track) -> dict[int, dict[str, dict[str, Any]]]:
    """Return face and head for every frame from a track's first look to its last."""
    looks, edges = _looks(clip, track), np.array([clip.width_px, clip.height_px] * 2)
    known = np.column_stack([track.boxes_px, track.scores])
    boxed = {}
    for frame in range(int(looks[0]), int(looks[-1]) + 1):
        *sides, score = (float(np.interp(frame, looks, column)) for column in known.T)
        face = np.array(sides)
        size = np.tile(face[2:] - face[:2], 2)
        boxed[frame] = {
            name: {
                "name": name, "class": 0, "confidence": round(min(max(score, 0.0), 1.0), 4),
                "box": dict(zip(("x1", "y1", "x2", "y2"), box.round(2).tolist(), strict=True)),
                "track_id": track.track_id, "new_track_id": _number(track),
            }
            for name, box in {
                "face": np.clip(face, 0, edges), "head": np.clip(face + size * _HEAD, 0, edges),
            }.items()
        }  # fmt: skip
    return boxed


@lru_cache(maxsize=2)
def _masker(settings: LayoutSettings, detector: str) -> Masker:
    """Make what masks faces; a worker loads it once."""
    if settings.masks == "sam2":
        from stages.video.sam2 import Sam2Masker

        return Sam2Masker(settings.sam2, settings.device)
    scheme = SCHEMES["dlib" if detector.startswith("dlib") else "insightface"]
    # What the tracker took for one face is bridged, however long it was not seen.
    return EllipseMasker(scheme, max_gap=1 << 30)


def _masks(
    clip: Clip, track: Track, masker: Masker, frames: "Sequence[RGB]"
) -> Iterator[Bool[np.ndarray, "height width"]]:
    """Yield a mask for every frame of the clip."""
    looks = _looks(clip, track)
    boxes = np.array(track.boxes_px, dtype=np.float32)
    points = np.array(track.landmarks_px, dtype=np.float32).reshape(-1, 5, 2)
    if frames:
        yield from masker.masks(frames, looks, boxes, points)
    else:
        yield from _between_looks(clip, masker, looks, boxes, points)


def _between_looks(
    clip: Clip,
    masker: Masker,
    looks: Int[np.ndarray, " looks"],
    boxes_px: Float32[np.ndarray, "looks 4"],
    landmarks_px: Float32[np.ndarray, "looks 5 2"],
) -> Iterator[Bool[np.ndarray, "height width"]]:
    """Yield ellipses from look to look, so that few masks are held: a minute of 1080p is 3 GB.

    Of the frames an ellipse is only asked how many there are and how large.
    """
    blank = np.broadcast_to(np.uint8(0), (clip.height_px, clip.width_px, 3))
    empty = np.zeros(blank.shape[:2], dtype=np.bool_)
    yield from [empty] * int(looks[0])
    for i, j in pairwise([*range(len(looks)), len(looks) - 1]):
        ends = [i, j] if i != j else [i]
        count = int(looks[j] - looks[i])
        found = masker.masks(
            [blank] * (count + 1), looks[ends] - looks[i], boxes_px[ends], landmarks_px[ends]
        )
        yield from found[: max(count, 1)]
    yield from [empty] * (clip.frames - int(looks[-1]) - 1)


def _png(mask: Bool[np.ndarray, "height width"]) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(mask).save(packed, "PNG")
    return packed.getvalue()
