"""A caption from measures alone: dull, true, and free."""

from collections.abc import Mapping
from typing import Any

_COUNTS = {0: "no person's face", 1: "one person", 2: "two people", 3: "three people"}
_SHOTS = ((0.25, "a close-up"), (0.08, "a head-and-shoulders shot"), (0.02, "a half-length shot"))
"""From which share of the picture that the main face covers, how photographers call it."""
_FACING_DEG, _PROFILE_DEG = 15.0, 45.0
_NOD_DEG, _TILT_DEG = 15.0, 12.0
_DIM, _BRIGHT = 0.3, 0.7
_MOTIONS = ((0.003, "keeps still"), (0.03, "hardly moves"), (0.15, "moves slowly"))
"""Up to which motion, in diagonals of the picture per second, how it is told."""
_ANGLES = ("yaw", "pitch", "roll")
_TURNING_DEG = 30.0
"""From which range of yaw a head is said to turn."""


def describe(row: Mapping[str, Any]) -> dict[str, str]:
    """Return ``attributes``, ``action`` and ``merged`` of a measured picture.

    Looks are not measured, so ``attributes`` speaks of how many people there are and how the main
    face is held, and ``action`` of framing and light. Left and right are the picture's.

    Args:
        row: num_faces, width_px, height_px and the measures of its faces, as lists.
    """
    people = _COUNTS.get(row["num_faces"], f"{row['num_faces']} people")
    shape = _shape(row["width_px"], row["height_px"])
    if not row["num_faces"]:
        told = f"A {shape} photograph that shows {people}."
        return {"attributes": "", "action": told, "merged": told}
    pose = _pose(*(row[f"face_{name}_deg"][0] for name in ("yaws", "pitches", "rolls")))
    shot = _shot(row["face_area_shares"][0])
    light = _light(row["face_exposures"][0])
    whose = "" if row["num_faces"] == 1 else "; the nearest is "
    attributes = f"{people.capitalize()}{whose or ' '}{pose}."
    action = f"{shot.capitalize()} in {light} light, a {shape} photograph."
    merged = f"A {shape} photograph of {people}, {shot} in {light} light"
    merged += f"; the nearest is {pose}." if whose else f", {pose}."
    return {"attributes": attributes, "action": action, "merged": merged}


def describe_clip(clip: Mapping[str, Any]) -> dict[str, str]:
    """Return ``attributes``, ``action`` and ``merged`` of a measured clip of a video.

    Args:
        clip: people, width_px, height_px, seconds, face_share, yaw_deg, pitch_deg, roll_deg,
            turn_deg (range of yaw), camera_motion, person_motion (None where it is not known).
    """
    people = _COUNTS.get(clip["people"], f"{clip['people']} people")
    shape = _shape(clip["width_px"], clip["height_px"])
    length = f"{max(round(clip['seconds']), 1)}-second"
    camera = _moved("the camera", clip["camera_motion"])
    if not clip["people"]:
        told = f"A {length} {shape} video that shows {people}; {camera}."
        return {"attributes": "", "action": told, "merged": told}
    turns = clip["turn_deg"] >= _TURNING_DEG
    pose = "turning the head" if turns else _pose(*(clip[f"{n}_deg"] for n in _ANGLES))
    shot = _shot(clip["face_share"])
    moves = [camera]
    if clip["person_motion"] is not None:
        moves = [_moved("the person", clip["person_motion"]), camera]
    whose = "" if clip["people"] == 1 else "; the main person is "
    attributes = f"{people.capitalize()}{whose or ' '}{pose}."
    action = f"{shot.capitalize()} of {length} length, in which {' and '.join(moves)}."
    merged = f"A {length} {shape} video of {people}, {shot}"
    merged += f"{whose or ', '}{pose}; {', '.join(moves)}."
    return {"attributes": attributes, "action": action, "merged": merged}


def _moved(what: str, motion: float) -> str:
    how = next((word for most, word in _MOTIONS if motion < most), "moves fast")
    return f"{what} {how}"


def _shot(face_share: float) -> str:
    return next((word for share, word in _SHOTS if face_share >= share), "a distant view")


def _shape(width_px: int, height_px: int) -> str:
    if abs(width_px - height_px) <= 0.05 * max(width_px, height_px):
        return "square"
    return "landscape" if width_px > height_px else "portrait"


def _pose(yaw_deg: float, pitch_deg: float, roll_deg: float) -> str:
    """Say how a face is held; signs as in ``stages/columns.py``."""
    side = "right" if yaw_deg > 0 else "left"
    if abs(yaw_deg) < _FACING_DEG:
        words = ["facing the camera"]
    elif abs(yaw_deg) < _PROFILE_DEG:
        words = [f"turned slightly to the {side}"]
    else:
        words = [f"in profile to the {side}"]
    if abs(pitch_deg) >= _NOD_DEG:
        words.append(f"looking {'up' if pitch_deg > 0 else 'down'}")
    if abs(roll_deg) >= _TILT_DEG:
        words.append("with the head tilted")
    return ", ".join(words)


def _light(exposure: float) -> str:
    return "dim" if exposure < _DIM else "bright" if exposure > _BRIGHT else "even"
