"""How fast, how exact and how large watching videos is: ``python -m tests.bench.video``.

* ``two-people.mp4`` (9.2 s): seconds against its length, frames decoded, tracks;
* the same by ``visage curate faceid_video``, from the file to the export;
* films of photographs of six people: the identities of their clips, across films;
* synthetic videos with known cuts and people: F1 of the cuts, identities and switches of tracks;
* two hours at 64 x 48 px and 2 frames a second: the highest memory of the process.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from io import BytesIO
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image

from pipelines.quickstart.pages import PERSON, pages
from pipelines.video.exported import read_clips
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


def curate(source: Path, folder: Path, *flags: str) -> dict:
    """Carry out ``visage curate faceid_video`` as a user does; return what it says."""
    command = [str(Path(sys.executable).parent / "visage"), "curate", "faceid_video", "--json"]
    command += ["--source.path", str(source), "--store", str(folder / "store"), *flags]
    began, spent = time.perf_counter(), {}
    with (folder / "told").open("w+") as told, subprocess.Popen(command, stdout=told) as asked:
        while asked.poll() is None:
            with suppress(psutil.Error):
                every = psutil.Process(asked.pid)
                for each in (every, *every.children(recursive=True)):
                    spent[each.pid] = sum(each.cpu_times()[:2])
            time.sleep(0.2)
        assert asked.returncode == 0
        told.seek(0)
        last = told.read().splitlines()[-1]
    wall_s = time.perf_counter() - began
    return json.loads(last) | {"wall_s": wall_s, "cpu_s": sum(spent.values())}


def curated(path: Path) -> dict:
    """Curate one video from its file to the export, its layouts and the report.

    Wall time and the processors' time of all processes have all of it, with the start of Python, of
    Ray and of its workers; the jobs' seconds are from seed to export.
    """
    with tempfile.TemporaryDirectory() as folder:
        told = curate(path, Path(folder))
        run = Path(told["path"])
        jobs = json.loads((run / "run.json").read_text())["jobs"]
        watched = pq.read_table(run / "watch/data", columns=["decoded_frames", "video"]).to_pylist()
    stages = {name: spent for job in jobs for name, (_, spent) in job["stage_seconds"].items()}
    return {
        "length_s": told["videos"]["length_s"], "wall_s": told["wall_s"], "cpu_s": told["cpu_s"],
        "jobs_s": sum(job["seconds"] for job in jobs), "watch_busy_s": stages["Watch"],
        "frames": sum(row["video"]["frames"] for row in watched),
        "decoded": sum(row["decoded_frames"] for row in watched),
        "clips": told["clips"]["rows"], "kept": told["clips"]["keep"], "pairs": told["pairs"],
        "load": os.getloadavg()[0],
    }  # fmt: skip


SEEN = "portrait.jpg head.jpg shirt.jpg shirt-close.jpg laugh.jpg lace.jpg blonde.png actor.webp"


def people(films: int = 2) -> dict:
    """Curate films of the same people in other orders; count the pairs of clips told right."""
    bodies = {page.path: page.body for page in pages()}
    rng = np.random.default_rng(0)
    truth = {}
    with tempfile.TemporaryDirectory() as folder:
        (home := Path(folder, "films")).mkdir()
        for number in range(films):
            order = [f"/{name}" for name in rng.permutation(SEEN.split())]
            shown = [np.asarray(Image.open(BytesIO(bodies[p])).convert("RGB")) for p in order]
            # Their slow zooms begin elsewhere in every film, so that no two clips are the same.
            frames = (
                frame
                for i, picture in enumerate(shown)
                for frame in made.grow(picture, 70, (480, 360), faster=0.002 + 0.001 * number,
                                       aside=0.6 * (-1) ** i)
            )  # fmt: skip
            made.write(home / f"{number}.mp4", frames, crf=18)
            truth[f"{number}.mp4"] = [PERSON[path] for path in order]
        told = curate(home, Path(folder))
        clips = read_clips(Path(told["path"], "export"))
    known = [truth[clip.member][clip.start_frame // 70] for clip in clips]
    pairs = list(combinations(range(len(clips)), 2))
    right = sum(
        bool(clips[i].person and clips[j].person)
        and (clips[i].person == clips[j].person) == (known[i] == known[j])
        for i, j in pairs
    )
    return {
        "shots": films * len(SEEN.split()), "clips": told["clips"]["rows"], "kept": len(clips),
        "reject": told["reject"], "people": len(set(known)),
        "found": len({clip.person for clip in clips} - {""}), "pairs": len(pairs),
        "pairs_right": right, "extra_tracks": sum(len(clip.tracks) - 1 for clip in clips),
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
        print(json.dumps({"curated": curated(Path(asked.data, "two-people.mp4"))}), flush=True)
    print(json.dumps({"people": people()}), flush=True)
    print(json.dumps({"cuts": cuts(asked.videos)}), flush=True)
    print(json.dumps({"identities": identities()}), flush=True)
    print(json.dumps({"passing": passing()}), flush=True)
    print(json.dumps({"long": long(asked.hours)}), flush=True)


if __name__ == "__main__":
    main()
