"""Videos drawn by what was trained, step by step, as jobs ask for them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from infra.errors import BadValue, BadWeights
from serving.errors import Refusal
from serving.jobs.limits import checked
from serving.jobs.schemas import VideoAsk
from serving.jobs.settings import VideoSettings
from serving.recipes import local
from serving.types import Reference
from serving.videos import State, VideoDraw, load_videos, video_info
from tests.training import videos as made
from tests.training.conftest import write_features
from tests.training.videos import COGVIDEOX, DIM, MOVING, recipe, write_videos
from training.build import build
from training.method import Condition, Sampling
from training.settings import MethodSettings

FACE = np.linspace(0, 255, 40 * 40 * 3).reshape(40, 40, 3).astype(np.uint8)
HER = Reference(vector=np.linspace(-1, 1, DIM, dtype=np.float32), embedder="test@0", faces=(FACE,))


def exported(folder, base, kind):
    with pytest.MonkeyPatch.context() as patch:
        # As random:tiny-clip makes them.
        patch.setattr(made, "IMAGE", (17, 32))
        patch.setattr(made, "FACE_STATES", (3, 17, 32))
        patch.setattr(made, "FACE_POOLED", 32)
        write_videos(folder / "features", base, people=2, clips=1)
    asked = recipe(folder / "features", base, method=MethodSettings(kind=kind))
    method = build(asked).method
    with torch.no_grad():
        for weight in method.trainable().values():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator()))
    method.save(folder / "export")
    return replace(local(), videos=VideoSettings(model=f"file:{folder / 'export'}")), method


@pytest.fixture(scope="module")
def animator(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("animator"), MOVING, "id_animator")


def ask(**changes):
    fields = {"request_id": "r", "prompt": "a dance", "width_px": 32, "height_px": 32, "frames": 4,
              "seed": 3, "steps": 3, "guidance": 2.0, "reference": HER}  # fmt: skip
    return VideoDraw(**(fields | changes))


def drawn(videos, asked, between=lambda state: state):
    state = videos.begin(asked)
    while state.next_step < asked.steps:
        state = between(videos.step(asked, state))
    return videos.frames(asked, state)


def through_a_file(state):
    return State(next_step=state.next_step, arrays=load(save(dict(state.arrays))))


def test_step_by_step_it_draws_what_the_method_draws_at_once(animator):
    deployment, method = animator
    videos = load_videos(deployment)
    frames = drawn(videos, ask())
    condition = videos._condition(ask())
    whole = method.eval().generate(
        Condition(**{n: getattr(condition, n) for n in ("identity", "text", "image",
                                                        "negative_text", "more")}),
        torch.Generator().manual_seed(3),
        Sampling(steps=3, guidance=2.0),
    )  # fmt: skip
    theirs = (whole[0] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert frames.shape == (4, 32, 32, 3)
    assert np.abs(frames.astype(int) - theirs.astype(int)).max() <= 1
    assert np.array_equal(frames, drawn(videos, ask(), through_a_file))
    assert np.array_equal(frames, drawn(load_videos(deployment), ask()))


@pytest.mark.parametrize(
    "change",
    [{"seed": 4}, {"prompt": "a march"}, {"negative_prompt": "fog"}, {"guidance": 1.0},
     {"identity_scale": 0.0}, {"reference": replace(HER, faces=(FACE[::-1].copy(),))}],
)  # fmt: skip
def test_all_that_is_asked_for_matters(animator, change):
    videos = load_videos(animator[0])
    assert not np.array_equal(drawn(videos, ask()), drawn(videos, ask(**change)))


def test_it_says_what_it_draws_before_it_is_loaded(animator):
    info = video_info(animator[0])
    assert (info.sides_px, info.frames, info.max_frames, info.fps) == ((32, 32), 4, 4, 8)
    assert (info.takes_text, info.takes_identity, info.looks_at_face) == (True, True, True)
    assert info.embedder == "test@0"
    assert load_videos(animator[0]).info == info


def test_a_preview_is_the_first_frame(animator):
    videos = load_videos(animator[0])
    state = videos.begin(ask())
    assert videos.preview(ask(), state).shape == (32, 32, 3)


def test_more_words_than_it_reads_are_refused(animator):
    with pytest.raises(Refusal, match="reads 77 tokens"):
        load_videos(animator[0]).begin(ask(prompt="word " * 99))


def test_a_causal_codec_draws_as_many_frames_as_it_was_prepared_for(tmp_path):
    deployment, _ = exported(tmp_path, COGVIDEOX, "proteus_id")
    info = video_info(deployment)
    assert (info.frames, info.fixed_frames, info.multiple_px) == (9, True, 16)
    with pytest.raises(Refusal, match="draws 9 always"):
        checked(VideoAsk(prompt="a", frames=8), info, deployment.videos, "r")
    videos = load_videos(deployment)
    asked = ask(frames=9, width_px=64, height_px=64, prompt="short", steps=2)
    assert drawn(videos, asked).shape == (9, 64, 64, 3)


def test_what_draws_no_videos_is_refused(tmp_path):
    nowhere = replace(local(), videos=VideoSettings(model=f"file:{tmp_path / 'nothing'}"))
    with pytest.raises(BadWeights, match="does not exist"):
        video_info(nowhere)
    folder = write_features(tmp_path / "still", codec="random:tiny-sd", shape=(4, 16, 16))
    still = recipe(folder, MOVING, method=MethodSettings())
    still = replace(still, base=replace(still.base, weights="random:tiny-sd",
                                        beta_schedule="scaled_linear"))  # fmt: skip
    build(still).method.save(tmp_path / "pictures")
    with pytest.raises(BadValue, match="draws pictures"):
        video_info(replace(local(), videos=VideoSettings(model=f"file:{tmp_path / 'pictures'}")))
