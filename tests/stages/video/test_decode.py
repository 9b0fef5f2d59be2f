import io
from fractions import Fraction

import numpy as np
import pytest

from stages.video.decode import BadVideo, Video
from stages.video.settings import VideoSettings
from tests.stages.video import made


def watch(path, **settings):
    """Decode a whole video: its facts, the times, the frames."""
    with path.open("rb") as file, Video(file, VideoSettings(**settings)) as video:
        frames = [(frame.time_s, frame.rgb()) for frame in video]
        return video.facts, [time_s for time_s, _ in frames], [rgb for _, rgb in frames]


def refusal(path, **settings):
    with pytest.raises(BadVideo) as told:
        watch(path, **settings)
    return told.value.error


def near(a, b):
    return np.abs(a.astype(int) - b.astype(int)).mean() < 6


def test_every_frame_comes_once_with_its_time(tmp_path):
    sent = list(made.grow(made.portrait("astronaut"), 30))
    facts, times, frames = watch(made.write(tmp_path / "a.mp4", sent, fps=25))
    assert (facts.width_px, facts.height_px, facts.frames) == (320, 240, 30)
    assert facts.fps == pytest.approx(25)
    assert facts.duration_s == pytest.approx(1.2)
    assert (facts.codec, facts.rotation_deg, facts.variable_rate) == ("h264", 0, False)
    assert times == pytest.approx(np.arange(30) / 25)
    assert all(near(a, b) for a, b in zip(sent, frames, strict=True))


def test_a_phone_held_upright_gives_upright_frames(tmp_path):
    path = made.write(tmp_path / "a.mp4", made.half(), matrix=made.TURNED)
    facts, _, frames = watch(path)
    assert (facts.width_px, facts.height_px, facts.rotation_deg) == (240, 320, 90)
    assert near(frames[3], np.rot90(made.half()[0], -1))


@pytest.mark.parametrize(
    ("matrix", "upright"),
    [
        ((-1, 0, 0, -1), lambda frame: frame[::-1, ::-1]),
        ((0, -1, 1, 0), lambda frame: np.rot90(frame)),
        ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),
    ],
)
def test_half_turns_left_turns_and_mirrors_are_undone(tmp_path, matrix, upright):
    a, b, c, d = (value * made.QUARTER for value in matrix)
    whole = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    path = made.write(tmp_path / "a.mp4", made.half(), matrix=whole)
    assert near(watch(path)[2][0], upright(made.half()[0]))


def test_turned_frames_are_turned_for_the_encoder_too(tmp_path):
    path = made.write(tmp_path / "a.mp4", made.half(), matrix=made.TURNED)
    with path.open("rb") as file, Video(file, VideoSettings()) as video:
        shown = [frame.yuv420p().to_ndarray(format="rgb24") for frame in video]
    assert near(shown[0], np.rot90(made.half()[0], -1))


def test_ten_bits_become_eight(tmp_path):
    path = made.write(tmp_path / "a.mp4", made.half(), pixels="yuv420p10le")
    _, _, frames = watch(path)
    assert frames[0].dtype == np.uint8
    assert near(frames[0], made.half()[0])


def test_an_uneven_rate_keeps_its_own_times(tmp_path):
    ticks = np.cumsum([0, 40, 40, 120, 40, 200, 40, 40, 40, 40]).tolist()
    path = made.write(tmp_path / "a.mkv", made.half(), ticks=ticks)
    facts, times, _ = watch(path)
    assert facts.variable_rate
    assert times == pytest.approx(np.array(ticks) / 1000)
    assert facts.duration_s == pytest.approx(0.6 + 0.6 / 9)


def test_times_rounded_to_milliseconds_are_no_uneven_rate(tmp_path):
    ticks = [round(i * 1000 / 29.97) for i in range(10)]
    assert not watch(made.write(tmp_path / "a.mkv", made.half(), ticks=ticks))[0].variable_rate


def test_wide_pixels_are_made_square(tmp_path):
    path = made.write(tmp_path / "a.mp4", made.half(), pixel_ratio=Fraction(2, 1))
    facts = watch(path)[0]
    assert (facts.width_px, facts.height_px) == (640, 240)


def test_sound_beside_the_picture_is_passed_over(tmp_path):
    assert watch(made.write(tmp_path / "a.mp4", made.half(30), audio=True))[0].frames == 30


def test_sound_alone_is_no_video(tmp_path):
    assert refusal(made.only_sound(tmp_path / "a.mp4")) == "no_video_stream"


def test_what_is_no_video_is_said_so(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"once upon a time" * 100)
    assert refusal(path) == "not_a_video"


def test_a_playlist_is_never_followed(tmp_path):
    good = made.write(tmp_path / "a.mp4", made.half())
    path = tmp_path / "a.m3u8"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{good}\n#EXT-X-ENDLIST\n")
    assert refusal(path) == "not_a_video"


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
@pytest.mark.parametrize("left", [0.05, 0.5, 0.8])
def test_a_truncated_file_is_one_error(tmp_path, name, left):
    codec = "mpeg4" if name == "a.avi" else "libx264"
    sent = made.grow(made.portrait("astronaut"), 60)
    path = made.write(tmp_path / name, sent, codec=codec)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * left)])
    assert refusal(path) == "broken_video"


def test_spoilt_bytes_are_one_error(tmp_path):
    sent = made.grow(made.portrait("astronaut"), 60)
    path = made.write(tmp_path / "a.ts", sent, form="mpegts")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    spoilt = bytearray(whole)
    for at in rng.integers(len(whole) // 4, len(whole), 400):
        spoilt[at] ^= 0xFF
    path.write_bytes(bytes(spoilt))
    assert refusal(path) == "broken_video"


def test_too_long_is_said_before_anything_is_decoded(tmp_path):
    path = made.write(tmp_path / "a.mp4", made.half(30), fps=1)
    settings = VideoSettings(max_minutes=0.25)
    with path.open("rb") as file, pytest.raises(BadVideo, match=r"too_long: 0\.5 minutes"):
        Video(file, settings)


def test_a_header_that_hides_the_length_does_not_help(tmp_path):
    path = made.write(tmp_path / "a.ts", made.half(30), fps=1, form="mpegts", codec="mpeg2video")
    assert refusal(path, max_minutes=0.25) == "too_long"


def test_frames_larger_than_allowed_are_never_decoded(tmp_path):
    path = made.write(tmp_path / "a.mp4", made.half())
    assert refusal(path, max_megapixels=0.05) == "too_many_pixels"


def test_an_empty_file_is_no_video():
    with pytest.raises(BadVideo, match="not_a_video"):
        Video(io.BytesIO(), VideoSettings())


def test_frames_are_made_small_without_making_them_large_first(tmp_path):
    path = made.write(tmp_path / "a.mp4", made.half(), matrix=made.TURNED)
    with path.open("rb") as file, Video(file, VideoSettings()) as video:
        shapes = {frame.rgb(160).shape for frame in video}
    assert shapes == {(160, 120, 3)}


def test_sound_that_goes_on_after_the_picture_is_no_truncation(tmp_path):
    path = made.write(tmp_path / "a.mkv", made.half(5), audio=True)
    assert watch(path)[0].duration_s == pytest.approx(0.2)
