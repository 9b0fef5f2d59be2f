"""A run over videos that is killed, and finished by the same command."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.dataset as pads
import pytest

from stages.video.clips import clip_id
from tests.e2e.albums import VISAGE
from tests.pipelines.video import films

pytestmark = [pytest.mark.ray, pytest.mark.slow]
FILMS = 5


def command(folder, store):
    return [
        VISAGE, "curate", "faceid_video", "--source.path", str(folder), "--store", str(store),
        "--workers.lookers", "1", "--json",
    ]  # fmt: skip


def blocks(store):
    return {path: path.stat().st_mtime_ns for path in store.glob("*/watch/data/status=*/*.parquet")}


@pytest.mark.timeout(300)
def test_after_kill_9_no_finished_video_is_watched_again(tmp_path):
    (folder := tmp_path / "films").mkdir()
    for number in range(FILMS):
        films.film(folder / f"{number}.mp4", (films.SHE,), frames=50 + number)
    store = tmp_path / "store"
    run = subprocess.Popen(
        command(folder, store), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    ends = time.monotonic() + 120
    while len(blocks(store)) < 2:
        assert run.poll() is None, "it was over before it could be killed"
        assert time.monotonic() < ends, "nothing was watched"
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    before = blocks(store)
    (home,) = store.glob("faceid_video-*")
    finished = pads.dataset(sorted(before)).to_table(columns=["id", "clips"]).to_pylist()
    files = [clip["file"] for row in finished for clip in row["clips"]]
    written = {name: (home / "watch/clips" / name).stat().st_mtime_ns for name in files}

    told = subprocess.run(
        command(folder, store), capture_output=True, text=True, timeout=200, check=False
    )
    assert told.returncode == 0, told.stderr
    result = json.loads(told.stdout.splitlines()[-1])
    assert {path: blocks(store)[path] for path in before} == before
    assert {n: (home / "watch/clips" / n).stat().st_mtime_ns for n in files} == written
    assert len(files) >= 2

    # And all others once: nothing is lost, doubled or left over.
    rows = pads.dataset(home / "watch/data").to_table(columns=["id", "clips"]).to_pylist()
    assert len({row["id"] for row in rows}) == len(rows) == FILMS == result["videos"]["rows"]
    clips = [(row["id"], clip) for row in rows for clip in row["clips"]]
    named = {clip_id(video, 0, clip["end_frame"]) for video, clip in clips}
    assert {clip["clip_id"] for _, clip in clips} == named
    assert sorted(clip["end_frame"] for _, clip in clips) == [50 + n for n in range(FILMS)]
    left = {path.name for path in (home / "watch/clips").iterdir()}
    assert left == {f"{name}.mp4" for name in named}
    assert result["keep"] == FILMS == len(list(Path(home, "export/clips").iterdir()))
