import hashlib
from functools import cache

import numpy as np
import pyarrow as pa
import pytest

from stages.chain import Chain
from stages.models.dlib_faces import DlibDetector, DlibEmbedder
from stages.types import Stage
from stages.video.clips import clip_id
from stages.video.decode import Video
from stages.video.settings import VideoSettings
from stages.video.watch import Watch
from tests.stages.video import made


@cache
def detector():
    return DlibDetector(640)


@cache
def embedder():
    return DlibEmbedder()


def row(**place):
    blank = {"id": "v", "file": "", "blob": None, "source": "", "member": "", "offset": 0}
    return {name: [value] for name, value in (blank | {"length": None} | place).items()}


def watch(folder, rows, **settings):
    stage = Watch(folder, VideoSettings(**settings), detector, embedder)
    out = stage(rows)
    assert tuple(out) == Watch.writes
    return {name: column[0] for name, column in out.items()}


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Two people who take turns, three shots; watched once."""
    folder = tmp_path_factory.mktemp("watched")
    path = made.write(folder / "a.mp4", made.shots([40, 36, 44], size=(320, 320)))
    return watch(folder / "clips", row(file=str(path))), folder


def test_it_is_a_stage(tmp_path):
    stage = Watch(tmp_path / "clips", VideoSettings(), detector, embedder)
    assert isinstance(stage, Stage)
    assert stage({name: [] for name in stage.reads}) == {name: [] for name in stage.writes}


def test_every_frame_is_decoded_once(watched):
    out, _ = watched
    assert (out["decoded_frames"], out["video"]["frames"]) == (120, 120)
    assert (out["error"], out["error_detail"]) == ("", "")


def test_clips_lie_inside_their_shots(watched):
    out, _ = watched
    assert [(s["start_frame"], s["end_frame"]) for s in out["shots"]] == [
        (0, 40), (40, 76), (76, 120),
    ]  # fmt: skip
    spans = [(clip["start_frame"], clip["end_frame"]) for clip in out["clips"]]
    assert spans == [(0, 38), (42, 74), (78, 120)]
    assert [clip["start_s"] for clip in out["clips"]] == pytest.approx([0, 42 / 25, 78 / 25])
    assert [clip["end_s"] for clip in out["clips"]] == pytest.approx([38 / 25, 74 / 25, 120 / 25])


def test_what_is_said_of_a_clip_is_true_of_its_file(watched):
    out, folder = watched
    assert {path.name for path in (folder / "clips").iterdir()} == {
        clip["file"] for clip in out["clips"]
    }
    for clip in out["clips"]:
        span = clip["start_frame"], clip["end_frame"]
        assert clip["clip_id"] == clip_id("v", *span)
        body = (folder / "clips" / clip["file"]).read_bytes()
        assert (len(body), hashlib.sha256(body).hexdigest()) == (clip["bytes_len"], clip["sha256"])
        with (folder / "clips" / clip["file"]).open("rb") as file:
            with Video(file, VideoSettings()) as video:
                assert sum(1 for _ in video) == clip["frames"] == span[1] - span[0]
            assert video.facts.fps == pytest.approx(clip["fps"]) == 25


def test_every_track_is_the_person_of_its_shot(watched):
    out, _ = watched
    tracks = [clip["tracks"] for clip in out["clips"]]
    assert [len(each) for each in tracks] == [1, 1, 1]
    first, second, third = (np.array(each[0]["embedding"]) for each in tracks)
    same, other = np.linalg.norm(first - third), np.linalg.norm(first - second)
    assert same < 0.25
    assert other > embedder().same_person_below


def test_a_track_has_an_entry_for_every_look(watched):
    out, _ = watched
    for clip in out["clips"]:
        (track,) = clip["tracks"]
        looks = list(range(clip["start_frame"], clip["end_frame"], 5))
        assert track["frames"] == looks
        assert (track["start_frame"], track["end_frame"]) == (looks[0], looks[-1] + 1)
        assert track["best_frame"] in looks
        assert track["template_count"] == len(looks)
        names = ("boxes_px", "scores", "landmarks_px", "yaws_deg", "sharpness")
        assert {len(track[name]) for name in names} == {len(looks)}
        left, top, right, bottom = np.median(track["boxes_px"], axis=0)
        assert left < 160 < right
        assert top < 160 < bottom


def test_a_zoom_over_a_photograph_is_motion_of_the_camera(watched):
    for clip in watched[0]["clips"]:
        assert clip["camera_motion"] > 0.01
        assert clip["person_motion"] < clip["camera_motion"]
        assert (clip["black_share"], clip["frozen_share"], clip["text_share"]) == (0, 0, None)
        assert clip["letterbox_px"] == [0, 0, 0, 0]


def test_a_row_goes_into_a_table_and_comes_out_the_same(tmp_path, watched):
    path = watched[1] / "a.mp4"
    text = pa.array([str(path), ""])
    nulls = pa.array([None, None])
    table = pa.table(
        {
            "id": pa.array(["v", "w"]), "file": text, "blob": nulls.cast(pa.large_binary()),
            "source": pa.array(["", str(tmp_path)]), "member": pa.array(["", "gone.mp4"]),
            "offset": pa.array([0, 0]), "length": nulls.cast(pa.int64()),
        }
    )  # fmt: skip
    stage = Watch(tmp_path / "clips", VideoSettings(), detector, embedder)
    out = Chain([stage])(table).to_pylist()
    assert [each["status"] for each in out] == ["keep", "error"]
    assert [each["error"] for each in out] == ["", "missing_file"]
    assert [clip["sha256"] for clip in out[0]["clips"]] == [
        clip["sha256"] for clip in watched[0]["clips"]
    ]
    assert out[1]["clips"] is None


def test_long_shots_become_several_clips_and_short_rests_none(tmp_path):
    path = made.write(tmp_path / "a.mp4", made.half(60))
    out = watch(tmp_path / "clips", row(file=str(path)), max_clip_s=1.0, min_clip_s=0.5)
    assert [(c["start_frame"], c["end_frame"]) for c in out["clips"]] == [(0, 25), (25, 50)]
    assert len(list((tmp_path / "clips").iterdir())) == 2


def test_a_broken_video_leaves_an_error_and_no_file(tmp_path):
    path = made.write(tmp_path / "a.mkv", made.half(80))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    out = watch(tmp_path / "clips", row(file=str(path)), max_clip_s=1.0, min_clip_s=0.5)
    assert out["error"] == "broken_video"
    assert out["decoded_frames"] > 30  # so at least one clip had been finished
    assert out["clips"] is None
    assert list((tmp_path / "clips").iterdir()) == []


def test_what_a_killed_try_left_is_removed_by_the_next(tmp_path):
    path = made.write(tmp_path / "a.mp4", made.half(30))
    (tmp_path / "clips").mkdir()
    name = hashlib.blake2b(b"v", digest_size=16).hexdigest()
    (tmp_path / "clips" / f".{name}-0.part").write_bytes(b"half a clip")
    (tmp_path / "clips" / f".{name}-900.part").write_bytes(b"half a clip")
    out = watch(tmp_path / "clips", row(file=str(path)))
    assert [each.name for each in (tmp_path / "clips").iterdir()] == [out["clips"][0]["file"]]
    assert out["clips"][0]["tracks"] == []
    assert out["clips"][0]["person_motion"] is None


def test_the_same_video_gives_the_same_row(tmp_path, watched):
    out, folder = watched
    blob = (folder / "a.mp4").read_bytes()
    again = watch(tmp_path / "clips", row(blob=blob))
    assert again["clips"] == out["clips"]
