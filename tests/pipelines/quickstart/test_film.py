"""The quickstart's film, and how what is found in it is held against what is known."""

from dataclasses import asdict, replace

import pyarrow as pa
import pytest

from infra.storage import open_folder
from pipelines.quickstart.film import (
    FPS,
    HEIGHT_PX,
    WIDTH_PX,
    Compared,
    compare,
    frames,
    scenes,
    write_video,
)
from pipelines.quickstart.pages import PERSON
from pipelines.video.exported import CLIPS, SHOTS
from stages.models.dlib_faces import DlibDetector, DlibEmbedder
from stages.video.decode import Video
from stages.video.settings import VideoSettings
from stages.video.watch import Watch

ALL_RIGHT = Compared(shots=4, shots_right=4, clips=3, clips_right=3, pairs=3, pairs_right=3)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("home") / "film.mp4"
    write_video(path)
    return path


def test_the_film_is_short_and_small_and_as_long_as_its_scenes(film):
    with film.open("rb") as file, Video(file, VideoSettings()) as video:
        count = sum(1 for _ in video)
        facts = video.facts
    assert count == scenes()[-1].end_frame
    assert (facts.width_px, facts.height_px) == (WIDTH_PX, HEIGHT_PX)
    assert 6 <= count / FPS <= 9
    assert film.stat().st_size < 1 << 20


def test_somebody_comes_back_and_in_one_scene_there_is_nobody():
    people = [scene.person for scene in scenes()]
    assert "" in people
    assert people[0] == people[-1]
    assert set(people) - {""} <= set(PERSON.values())
    assert len(set(people) - {""}) == 2


def test_the_same_film_is_not_written_twice(film):
    before = film.stat().st_mtime_ns
    write_video(film)
    assert film.stat().st_mtime_ns == before
    assert [path.name for path in film.parent.iterdir()] == [film.name]


def test_the_camera_moves_through_every_scene():
    shown = list(frames())
    for scene in scenes():
        first, second = shown[scene.start_frame], shown[scene.start_frame + 1]
        assert (first != second).any()


@pytest.fixture(scope="module")
def found(film, tmp_path_factory):
    """What watching the film finds, as rows of an export whose people are told right."""
    folder = tmp_path_factory.mktemp("clips")
    stage = Watch(folder, VideoSettings(), lambda: DlibDetector(640), DlibEmbedder)
    row = {"id": "f", "file": str(film), "blob": None, "source": "", "member": "", "offset": 0}
    out = {k: v[0] for k, v in stage({k: [v] for k, v in (row | {"length": None}).items()}).items()}
    clips = []
    for clip in out["clips"]:
        who = next(s.person for s in scenes() if s.start_frame <= clip["start_frame"] < s.end_frame)
        tracks = [track | {"person": who} for track in clip["tracks"]]
        if tracks:
            clips.append(clip | {"id": clip["clip_id"], "person": who, "tracks": tracks})
    return {"video_id": "f", "shots": out["shots"]}, clips


def exported(folder, shots, clips):
    """Write an export's tables."""
    home = open_folder(str(folder))
    home.write_table("shots.parquet", pa.Table.from_pylist([shots], schema=SHOTS))
    home.write_table("clips.parquet", pa.Table.from_pylist(clips, schema=CLIPS))
    return home


def test_what_is_found_in_the_film_is_what_was_made(found, tmp_path):
    assert compare(exported(tmp_path, *found)) == ALL_RIGHT
    assert ALL_RIGHT.sentence.startswith("4 of 4 shots, 3 of 3 tracks and 3 of 3 pairs of people")


def test_a_shot_a_track_or_a_person_that_is_wrong_is_counted(found, tmp_path):
    shots, clips = found
    later = [shot | {"start_frame": shot["start_frame"] + 1} for shot in shots["shots"]]
    assert compare(exported(tmp_path, shots | {"shots": later}, clips)).shots_right == 0
    twice = [clips[0] | {"tracks": clips[0]["tracks"] * 2}, *clips[1:]]
    assert compare(exported(tmp_path, shots, twice)).clips_right == 2
    same = [clip | {"person": "one"} for clip in clips]
    assert compare(exported(tmp_path, shots, same)).pairs_right == 1
    nobody = [clip | {"person": ""} for clip in clips]
    assert compare(exported(tmp_path, shots, nobody)).pairs_right == 0
    gone = asdict(compare(exported(tmp_path, shots, [])))
    assert gone == asdict(replace(ALL_RIGHT, shots_right=4, clips_right=0, pairs_right=0))
