"""Motion that is known, because the frames are windows that slide over a photograph."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from infra.errors import BadValue, BadWeights
from tests.stages.models.photos import astronaut
from training.video.motion import DisFlow, interpolated, load_flow, measure_motion

SIDE_PX = 128
DIAGONAL_PX = SIDE_PX * 2**0.5


def sliding(offsets_px, side_px=SIDE_PX):
    """Return a video whose window stands at these offsets of a photograph, x and y."""
    return np.stack([
        astronaut()[150 + y : 150 + y + side_px, 150 + x : 150 + x + side_px]
        for x, y in offsets_px
    ])  # fmt: skip


def steady(step_px, frames=9, side_px=SIDE_PX):
    return sliding([(index * step_px, 0) for index in range(frames)], side_px)


@pytest.mark.parametrize("step_px", [1, 2, 5])
def test_motion_is_what_the_window_moves_in_diagonals_per_second(step_px):
    motion = measure_motion(steady(step_px), 10.0, DisFlow())
    assert motion.per_s == pytest.approx(step_px * 10 / DIAGONAL_PX, rel=0.02)


def test_the_flow_points_where_things_go():
    field = DisFlow()(*steady(3, frames=2))
    middle = field[20:-20, 20:-20].reshape(-1, 2).mean(axis=0)
    assert middle == pytest.approx([-3, 0], abs=0.1)  # the window goes right, what is in it left


def test_a_video_at_rest_has_no_motion_is_not_dynamic_and_perfectly_smooth():
    motion = measure_motion(steady(0), 8.0, DisFlow())
    assert (motion.per_s, motion.dynamic, motion.smoothness) == (0, 0, 1)


def test_steady_motion_is_smoother_than_shaking_of_the_same_speed():
    there_and_back = sliding([(5 * (index % 2), 0) for index in range(9)])
    shaking = measure_motion(there_and_back, 8.0, DisFlow())
    even = measure_motion(steady(5), 8.0, DisFlow())
    assert shaking.per_s == pytest.approx(even.per_s, rel=0.05)
    assert even.smoothness > 0.99
    assert shaking.smoothness < 0.97


def test_the_frame_between_is_the_window_between():
    before, between, after = steady(4, frames=3)
    off = np.abs(interpolated(before, after, DisFlow()).astype(int) - between)[10:-10, 10:-10]
    assert off.mean() < 1
    assert np.abs(before.astype(int) - between)[10:-10, 10:-10].mean() > 5


@pytest.mark.parametrize(
    ("step_px", "fps", "dynamic"),
    [(2, 8.0, 0), (4, 8.0, 1), (4, 4.0, 0), (7, 4.0, 1), (2, 16.0, 1), (1, 16.0, 0)],
)
def test_a_video_is_dynamic_above_6_px_of_256_at_8_frames_per_second(step_px, fps, dynamic):
    # At 128 px the limit is 3 px per 1/8 s; a video of 4 fps is measured from frame to frame.
    assert measure_motion(steady(step_px), fps, DisFlow()).dynamic == dynamic


def test_a_quarter_of_the_pairs_must_move():
    once, thrice = [(0, 0)] * 8 + [(6, 0)], [(0, 0)] * 6 + [(6, 0), (12, 0), (18, 0)]
    assert measure_motion(sliding(once), 8.0, DisFlow()).dynamic == 0
    assert measure_motion(sliding(thrice), 8.0, DisFlow()).dynamic == 1


@pytest.mark.parametrize("frames", [steady(1, frames=1), steady(1, frames=4, side_px=8)])
def test_too_few_or_too_small_frames_say_nothing(frames):
    motion = measure_motion(frames, 8.0, DisFlow())
    assert np.isnan([motion.per_s, motion.dynamic, motion.smoothness]).all()


def test_two_frames_move_but_have_none_between_them():
    motion = measure_motion(steady(2, frames=2), 8.0, DisFlow())
    assert motion.per_s > 0
    assert np.isnan(motion.smoothness)


def test_without_weights_flow_is_opencv_s():
    assert load_flow().weights.startswith("dis-medium@opencv-")


@pytest.mark.parametrize("reference", ["raft", "random:raft", "hub:raft"])
def test_an_unknown_flow_is_refused(reference):
    with pytest.raises(BadValue, match="give 'dis', or 'file:"):
        load_flow(reference)


def test_a_pickle_of_raft_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "raft.pth")
    with pytest.raises(BadWeights, match="may be a pickle"):
        load_flow(f"file:{tmp_path / 'raft.pth'}")


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_raft_without_torchvision_says_what_to_install(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "raft.safetensors")
    with pytest.raises(BadValue, match="Install the build that belongs to torch"):
        load_flow(f"file:{tmp_path}")


def test_raft_s_flow_is_that_of_torchvision_at_any_size(tmp_path):
    models = pytest.importorskip("torchvision.models.optical_flow", exc_type=ImportError)
    network = models.raft_small().eval()
    save_file(network.state_dict(), tmp_path / "raft.safetensors")
    flow = load_flow(f"file:{tmp_path}")
    assert flow.weights == "raft_small of raft.safetensors"
    pair = torch.from_numpy(steady(2, frames=2)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        expected = network(pair[:1], pair[1:], num_flow_updates=20)[-1][0].permute(1, 2, 0)
    np.testing.assert_allclose(flow(*steady(2, frames=2)), expected.numpy(), atol=1e-4)
    assert flow(*steady(2, frames=2, side_px=100)).shape == (100, 100, 2)
