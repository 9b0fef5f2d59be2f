import numpy as np
import pytest

from stages.video.decode import Video
from stages.video.settings import VideoSettings
from stages.video.shots import Kept, Shot, cut
from tests.stages.video import made


def cut_up(path, **settings):
    """Return the shots, and the numbers of the frames that go into clips."""
    settings = VideoSettings(**settings)
    with path.open("rb") as file, Video(file, settings) as video:
        found = list(cut(video, settings))
    kept = [item.frame.index for item in found if isinstance(item, Kept)]
    return [item for item in found if isinstance(item, Shot)], kept


def test_every_hard_cut_is_found_at_its_frame(tmp_path):
    lengths = [30, 25, 40, 16, 30, 22]
    path = made.write(tmp_path / "a.mp4", made.shots(lengths))
    found, _ = cut_up(path)
    ends = np.cumsum(lengths).tolist()
    assert [shot.end_frame for shot in found] == ends
    assert [shot.start_frame for shot in found] == [0, *ends[:-1]]
    assert [shot.end_s for shot in found] == pytest.approx(np.array(ends) / 25)
    assert [shot.start_s for shot in found] == pytest.approx(np.array([0, *ends[:-1]]) / 25)


@pytest.mark.parametrize("trim", [0, 3])
def test_frames_next_to_a_cut_are_left_out_on_both_sides(tmp_path, trim):
    path = made.write(tmp_path / "a.mp4", made.shots([20, 25]))
    _, kept = cut_up(path, trim_frames=trim)
    assert kept == [*range(20 - trim), *range(20 + trim, 45)]


def test_a_slow_zoom_over_one_person_is_one_shot(tmp_path):
    path = made.write(tmp_path / "a.mp4", made.shots([80]))
    found, kept = cut_up(path)
    assert [(shot.start_frame, shot.end_frame) for shot in found] == [(0, 80)]
    assert kept == list(range(80))


def test_a_flash_is_no_cut(tmp_path):
    frames = list(made.shots([60]))
    frames[30] = np.full_like(frames[30], 255)
    assert len(cut_up(made.write(tmp_path / "a.mp4", frames), min_shot_frames=60)[0]) == 1


def test_a_single_frame_is_a_shot(tmp_path):
    found, kept = cut_up(made.write(tmp_path / "a.mp4", made.half(1)))
    assert ([(shot.start_frame, shot.end_frame) for shot in found], kept) == ([(0, 1)], [0])


def test_few_frames_are_held_back(tmp_path):
    path = made.write(tmp_path / "a.mp4", made.shots([30, 30]))
    settings = VideoSettings(trim_frames=3)
    with path.open("rb") as file, Video(file, settings) as video:
        behind = [
            video.decoded - item.frame.index
            for item in cut(video, settings)
            if isinstance(item, Kept)
        ]
    assert max(behind) <= 3 + 2 + 1
