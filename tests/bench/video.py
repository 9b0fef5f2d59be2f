"""How fast, how exact and how large watching videos is: ``python -m tests.bench.video``.

* ``two-people.mp4`` (9.2 s): seconds against its length, frames decoded, tracks;
* synthetic videos with known cuts and people: F1 of the cuts, identities and switches of tracks;
* two hours at 64 x 48 px and 2 frames a second: the highest memory of the process.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from stages.models.dlib_faces import DlibDetector, DlibEmbedder
from stages.video.decode import Video
from stages.video.settings import VideoSettings
from stages.video.shots import Shot, cut
from stages.video.watch import Watch
from tests.stages.video import made


def stage_of(folder: Path, settings: VideoSettings) -> Watch:
    """Make the stage with dlib's models."""
    return Watch(folder, settings, lambda: DlibDetector(640), DlibEmbedder)


def watch(path: Path, folder: Path, settings: VideoSettings) -> dict:
    """Watch one video with dlib; the models are loaded before the clock runs."""
    stage = stage_of(folder, settings)
    row = {"id": path.name, "file": str(path), "blob": None, "source": "", "member": ""}
    began, processor = time.perf_counter(), time.process_time()
    out = stage({name: [value] for name, value in (row | {"offset": 0, "length": None}).items()})
    done = {name: column[0] for name, column in out.items()}
    spent = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - processor}
    return done | spent


def real(path: Path) -> dict:
    """Watch the real video."""
    with tempfile.TemporaryDirectory() as folder:
        out = watch(path, Path(folder), VideoSettings())
    tracks = [[t["template_count"] for t in clip["tracks"]] for clip in out["clips"]]
    facts = out["video"]
    return {
        "length_s": facts["duration_s"], "wall_s": out["wall_s"], "cpu_s": out["cpu_s"],
        "frames": facts["frames"], "decoded": out["decoded_frames"], "shots": len(out["shots"]),
        "clips": len(out["clips"]), "looks_by_track": tracks,
    }  # fmt: skip


def cuts(videos: int, seed: int = 0) -> dict:
    """Look for cuts in random videos; a cut counts only at its very frame."""
    rng = np.random.default_rng(seed)
    hits = found = true = 0
    with tempfile.TemporaryDirectory() as folder:
        for i in range(videos):
            lengths = rng.integers(16, 60, rng.integers(3, 9)).tolist()
            frames = made.shots(lengths, names=("astronaut", "hanks", "group"))
            crf = int(rng.integers(12, 32))
            path = made.write(Path(folder, f"{i}.mp4"), frames, crf=crf)
            with path.open("rb") as file, Video(file, VideoSettings()) as video:
                shots = [s for s in cut(video, VideoSettings()) if isinstance(s, Shot)]
            ends = {shot.end_frame for shot in shots[:-1]}
            known = set(np.cumsum(lengths)[:-1].tolist())
            hits, found, true = hits + len(ends & known), found + len(ends), true + len(known)
    return {"cuts": true, "found": found, "f1": 2 * hits / (found + true)}


def identities(clips: int = 12) -> dict:
    """Follow people who take turns: who is who across clips, and who changes inside a track."""
    names = ("astronaut", "hanks")
    lengths = [30] * clips
    with tempfile.TemporaryDirectory() as folder:
        frames = made.shots(lengths, (320, 320), names)
        path = made.write(Path(folder, "a.mp4"), frames)
        out = watch(path, Path(folder, "clips"), VideoSettings())
    tracks = [clip["tracks"] for clip in out["clips"]]
    vectors = [np.array(each[0]["embedding"]) for each in tracks]
    right = sum(
        (np.linalg.norm(a - b) < DlibEmbedder.same_person_below) == (i % 2 == j % 2)
        for i, a in enumerate(vectors)
        for j, b in enumerate(vectors)
        if i < j
    )
    pairs = len(vectors) * (len(vectors) - 1) // 2
    broken = sum(len(each) - 1 for each in tracks)
    return {"clips": len(tracks), "pairs": pairs, "pairs_right": int(right), "extra_tracks": broken}


def passing(switches: int = 3) -> dict:
    """Move two people past one another and back, one in front of the other at times."""
    people = [
        next(made.grow(made.portrait(name), 1, (260, 260))) for name in ("astronaut", "hanks")
    ]
    rng = np.random.default_rng(0)
    back = rng.integers(90, 110, (300, 640, 3), np.uint8)
    frames = []
    for i in range(60 * switches):
        frame = back.copy()
        aside = 0.5 - 0.5 * np.cos(np.pi * i / 60)
        for person, share in zip(people, (aside, 1 - aside), strict=True):
            left = round(10 + 360 * share)
            frame[20:280, left : left + 260] = person
        frames.append(frame)
    with tempfile.TemporaryDirectory() as folder:
        path = made.write(Path(folder, "a.mp4"), frames)
        out = watch(path, Path(folder, "clips"), VideoSettings())
    tracks = [track for clip in out["clips"] for track in clip["tracks"]]
    changed = 0
    for track in tracks:
        sides = [(left + right) / 2 for left, _, right, _ in track["boxes_px"]]
        shares = [0.5 - 0.5 * np.cos(np.pi * i / 60) for i in track["frames"]]
        # The first person's middle is near 140 + 360 share, the second's mirrored.
        firsts = [
            abs(s - 140 - 360 * w) < abs(s - 500 + 360 * w)
            for s, w in zip(sides, shares, strict=True)
        ]
        clear = [f for f, w in zip(firsts, shares, strict=True) if abs(w - 0.5) > 0.2]
        changed += sum(bool(a != b) for a, b in pairwise(clear))
    return {"tracks": len(tracks), "switches": changed}


def long(hours: float = 2.0) -> dict:
    """Watch a video of hours, low and slow; what counts is the highest memory."""
    picture = made.portrait("astronaut")
    with tempfile.TemporaryDirectory() as folder:
        count = round(hours * 3600 * 2)
        one = list(made.grow(picture, 600, (64, 48), faster=0.001, aside=0.05))
        path = made.write(Path(folder, "a.mp4"), (one[i % 600] for i in range(count)), fps=2)
        stage_of(Path(folder, "clips"), VideoSettings())  # torch and the models are no growth
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        out = watch(path, Path(folder, "clips"), VideoSettings(detect_every=20))
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "length_s": out["video"]["duration_s"], "frames": out["decoded_frames"],
        "clips": len(out["clips"]), "wall_s": out["wall_s"],
        "peak_mib": after / 1024, "grown_mib": (after - before) / 1024,
    }  # fmt: skip


def main() -> None:
    """Print what was measured."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--data", type=Path, default=os.environ.get("VISAGE_TEST_DATA"))
    asked.add_argument("--videos", type=int, default=30)
    asked.add_argument("--hours", type=float, default=2.0)
    asked = asked.parse_args()
    if asked.data:
        print(json.dumps({"real": real(Path(asked.data, "two-people.mp4"))}), flush=True)
    print(json.dumps({"cuts": cuts(asked.videos)}), flush=True)
    print(json.dumps({"identities": identities()}), flush=True)
    print(json.dumps({"passing": passing()}), flush=True)
    print(json.dumps({"long": long(asked.hours)}), flush=True)


if __name__ == "__main__":
    main()
