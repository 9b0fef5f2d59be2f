from fractions import Fraction

import numpy as np
import pytest

from stages.video.clips import ClipFile, clip_id
from stages.video.decode import Video
from stages.video.settings import VideoSettings
from tests.stages.video import made


def copy(path, out, start, end, **settings):
    """Write frames ``start`` to ``end`` of a video as a clip."""
    settings = VideoSettings(**settings)
    with path.open("rb") as file, Video(file, settings) as video:
        clip = ClipFile(out, video.time_base, video.mean_fps, settings)
        for frame in video:
            if start <= frame.index < end:
                clip.add(frame)
        return clip.close()


def watch(path):
    with path.open("rb") as file, Video(file, VideoSettings()) as video:
        frames = [(frame.time_s, frame.rgb()) for frame in video]
        return video.facts, [time_s for time_s, _ in frames], [rgb for _, rgb in frames]


def test_a_clip_holds_the_very_frames_of_its_span(tmp_path):
    source = made.write(tmp_path / "a.mp4", made.grow(made.portrait("astronaut"), 50))
    written = copy(source, tmp_path / "clip.mp4", 13, 38)
    facts, times, frames = watch(tmp_path / "clip.mp4")
    assert (written.frames, facts.frames, facts.codec) == (25, 25, "h264")
    assert (written.width_px, written.height_px) == (320, 240)
    assert facts.fps == pytest.approx(25)
    assert times == pytest.approx(np.arange(25) / 25)
    sent = [rgb.astype(int) for rgb in watch(source)[2]]
    for i, frame in enumerate(frames):
        gaps = [np.abs(frame - each).mean() for each in sent]
        assert int(np.argmin(gaps)) == 13 + i
        assert gaps[13 + i] < 3


def test_uneven_times_stay_as_they_were(tmp_path):
    ticks = np.cumsum([0, 40, 40, 120, 40, 200, 40, 40, 40, 40]).tolist()
    source = made.write(tmp_path / "a.mkv", made.half(), ticks=ticks)
    copy(source, tmp_path / "clip.mp4", 2, 9)
    facts, times, _ = watch(tmp_path / "clip.mp4")
    assert facts.variable_rate
    assert times == pytest.approx((np.array(ticks)[2:9] - ticks[2]) / 1000, abs=1e-3)


@pytest.mark.parametrize("odd", [{"pixels": "yuv420p10le"}, {"matrix": made.TURNED}])
def test_clips_are_upright_and_of_eight_bits(tmp_path, odd):
    source = made.write(tmp_path / "a.mp4", made.half(), **odd)
    copy(source, tmp_path / "clip.mp4", 0, 10)
    facts, _, frames = watch(tmp_path / "clip.mp4")
    assert facts.rotation_deg == 0
    upright = np.rot90(made.half()[0], -1) if "matrix" in odd else made.half()[0]
    assert np.abs(frames[0].astype(int) - upright).mean() < 6


def test_odd_sides_become_even(tmp_path):
    frames = made.half(size=(321, 243))
    source = made.write(tmp_path / "a.mkv", frames, codec="ffv1", pixels="bgr0")
    written = copy(source, tmp_path / "clip.mp4", 0, 10)
    assert (written.width_px, written.height_px) == (320, 242)


def test_the_same_frames_give_the_same_bytes(tmp_path):
    source = made.write(tmp_path / "a.mp4", made.grow(made.portrait("hanks"), 20))
    # With its macroblock tree, x264 gave ten sizes in ten tries.
    first, *others = (copy(source, tmp_path / f"{i}.mp4", 3, 17) for i in range(6))
    assert others == [first] * 5
    assert first.bytes_len == (tmp_path / "0.mp4").stat().st_size


def test_a_discarded_clip_leaves_nothing(tmp_path):
    clip = ClipFile(tmp_path / "clip.mp4", Fraction(1, 25), 25.0, VideoSettings())
    clip.discard()
    assert list(tmp_path.iterdir()) == []


def test_ids_are_of_video_and_span():
    ids = {clip_id("a", 0, 9), clip_id("b", 0, 9), clip_id("a", 0, 8), clip_id("a", 1, 9)}
    assert len(ids) == 4
    assert all(len(each) == 32 for each in ids)
    assert clip_id("a", 0, 9) == clip_id("a", 0, 9)
