from dataclasses import replace

import av
import numpy as np
import pytest
from safetensors.numpy import load, save

from infra.errors import BadValue
from serving.errors import Refusal
from serving.jobs.settings import VideoSettings
from serving.mp4 import write_mp4
from serving.recipes import local
from serving.types import Reference
from serving.videos import INFOS, State, VideoDraw, Videos, load_videos, video_info

MODEL = "random:tiny-animatediff"
RECIPE = replace(local(), videos=VideoSettings(model=MODEL))
ASK = VideoDraw(
    request_id="r", prompt="a dance", width_px=32, height_px=16, frames=3, seed=1, steps=3,
    guidance=4.0,
)  # fmt: skip
HER = Reference(vector=np.linspace(-1, 1, 128, dtype=np.float32), embedder="test@0")


@pytest.fixture(scope="module")
def videos():
    return load_videos(RECIPE)


def drawn(videos, ask=ASK, between=lambda state: state):
    state = videos.begin(ask)
    while state.next_step < ask.steps:
        state = between(videos.step(ask, state))
    return videos.frames(ask, state)


def through_a_file(state):
    return State(next_step=state.next_step, arrays=load(save(dict(state.arrays))))


def test_a_drawing_that_goes_through_files_is_the_same_to_the_bit(videos):
    whole = drawn(videos)
    assert (whole.shape, whole.dtype) == ((3, 16, 32, 3), np.uint8)
    assert np.array_equal(whole, drawn(videos, between=through_a_file))
    assert np.array_equal(whole, drawn(load_videos(RECIPE)))
    assert isinstance(videos, Videos)
    assert videos.info == video_info(RECIPE)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2}, {"prompt": "a march"}, {"negative_prompt": "a march"}, {"guidance": 1.0},
        {"reference": HER}, {"reference": replace(HER, vector=HER.vector[::-1].copy())},
    ],
)  # fmt: skip
def test_all_that_is_asked_for_matters(videos, change):
    base = replace(ASK, reference=replace(HER, vector=HER.vector**2))
    assert not np.array_equal(drawn(videos, base), drawn(videos, replace(base, **change)))


def test_frames_of_one_video_know_of_one_another(videos):
    state = videos.begin(ASK)
    other = state.arrays["latents"].copy()
    other[:, :, -1] += 1.0
    after, moved = (
        videos.step(ASK, State(next_step=0, arrays={"latents": latents})).arrays["latents"][:, :, 0]
        for latents in (state.arrays["latents"], other)
    )
    assert not np.array_equal(after, moved)


def test_a_prompt_that_would_be_cut_is_refused(videos):
    with pytest.raises(Refusal, match="tokens; give fewer"):
        videos.begin(replace(ASK, prompt="dance " * 500))


def test_a_model_that_is_none_is_refused_with_the_nearest():
    with pytest.raises(BadValue, match="Did you mean 'random:tiny-animatediff'"):
        load_videos(replace(RECIPE, videos=VideoSettings(model="random:tiny-animatedif")))
    assert all(name == info.model for name, info in INFOS.items())


def test_frames_come_back_from_the_file_as_they_went_in(tmp_path):
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    rows = np.stack([np.roll(ramp, i) for i in range(5)])
    frames = np.tile(rows[:, None, :, None], (1, 48, 1, 3))
    write_mp4(frames, tmp_path / "ramp.mp4", fps=8)
    blob = (tmp_path / "ramp.mp4").read_bytes()
    assert blob.index(b"moov") < blob.index(b"mdat")
    with av.open(str(tmp_path / "ramp.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 8)
        back = np.stack([one.to_ndarray(format="rgb24") for one in video.decode(stream)])
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).mean() < 6


def test_results_lie_in_the_store_unless_it_is_elsewhere():
    assert local().results == "trained/videos"
    named = replace(local(), videos=VideoSettings(model=MODEL, folder="/mnt/videos"))
    assert named.results == "/mnt/videos"
    away = replace(named, store="s3://bucket/store", videos=VideoSettings(model=MODEL))
    with pytest.raises(BadValue, match=r"videos\.folder"):
        _ = away.results
