"""Weights lie where a person moves, by how fast, on the grid of the latents."""

import numpy as np
import pytest

from infra.errors import BadValue
from training.video.flow import flow_maps, frames_behind, is_still

HIGH, WIDE = 64, 96


def texture(seed, high=HIGH, wide=WIDE):
    """Make smooth noise, on which flow can be measured."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (high // 4, wide // 4, 3)).astype(np.float32)
    return np.kron(coarse, np.ones((4, 4, 1), np.float32)).astype(np.uint8)


def clip(frames, *movers, noise=0):
    """Move textured squares of 24 px over a background.

    Args:
        frames: How many.
        movers: Each a first place (row, column) and pixels to the right per frame.
        noise: Grey levels of noise, new in each frame.
    """
    rng, ground = np.random.default_rng(0), texture(1)
    faces = [texture(2 + n, 24, 24) for n in range(len(movers))]
    pictures, masks = [], np.zeros((frames, HIGH, WIDE), dtype=bool)
    for frame in range(frames):
        picture = ground.copy()
        for face, (row, column, speed) in zip(faces, movers, strict=True):
            at = column + frame * speed
            picture[row : row + 24, at : at + 24] = face
            masks[frame, row : row + 24, at : at + 24] = True
        grain = rng.integers(-noise, noise + 1, picture.shape)
        pictures.append(np.clip(picture.astype(np.int32) + grain, 0, 255).astype(np.uint8))
    return np.stack(pictures), masks


def test_weights_lie_on_who_moves_and_not_on_who_rests_nor_beside():
    frames, masks = clip(5, (0, 0, 4), (40, 40, 0))
    maps = flow_maps(frames, masks, (5, 8, 12))
    assert maps.dtype == np.float32
    assert maps[2, 1, 2:3].min() > 0.8  # the mover's middle: columns 8 to 32 px in frame 2
    assert maps[0, 1, 1] > 0.8
    assert maps[4, 1, 0] == 0  # where it was, and is no more
    assert maps[:, 6, 6].max() < 0.1  # who rests
    assert maps[:, 2:4, 10].max() == 0  # nobody


def test_slow_and_fast_are_told_apart_where_the_original_s_sigmoid_hardly_does():
    frames, masks = clip(4, (0, 0, 9), (40, 0, 3))
    maps = flow_maps(frames, masks, (4, 8, 12))
    fast, slow = maps[0, 1, 1], maps[0, 6, 1]
    assert slow / fast == pytest.approx(3 / 9, abs=0.1)
    sigmoid = 1 / (1 + np.exp(-np.array([9.0, 3.0])))
    assert sigmoid[1] / sigmoid[0] > 0.95  # of train.py, compute_raft: near a mask of bodies
    rested = 1 / (1 + np.exp(-0.01))
    assert rested > 0.5  # and whoever all but rests has half of it


def test_maps_are_of_the_clip_s_own_speed_whatever_the_size_of_the_picture():
    frames, masks = clip(4, (8, 0, 4))
    twice = [np.repeat(np.repeat(each, 2, axis=1), 2, axis=2) for each in (frames, masks)]
    ours, theirs = flow_maps(frames, masks, (4, 8, 12)), flow_maps(*twice, (4, 8, 12))
    assert np.abs(ours - theirs).mean() < 0.05


def test_a_latent_stands_for_four_frames_but_the_first():
    assert frames_behind(9, 3) == [range(1), range(1, 5), range(5, 9)]
    assert frames_behind(1, 1) == [range(1)]
    assert frames_behind(4, 4) == [range(n, n + 1) for n in range(4)]
    frames, masks = clip(9, (8, 0, 4))
    each, grouped = (flow_maps(frames, masks, (many, 8, 12)) for many in (9, 3))
    np.testing.assert_allclose(grouped[0], each[0], atol=1e-6)
    np.testing.assert_allclose(grouped[2], each[5:9].mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("noise", [0, 4])
def test_a_person_who_rests_gives_zeros_also_under_grain(noise):
    frames, masks = clip(5, (8, 8, 0), noise=noise)
    maps = flow_maps(frames, masks, (5, 8, 12))
    assert maps.shape == (5, 8, 12)
    assert is_still(maps)


def test_a_single_frame_and_a_clip_without_a_mask_are_still():
    frames, masks = clip(5, (8, 0, 4))
    assert is_still(flow_maps(frames[:1], masks[:1], (1, 8, 12)))
    assert is_still(flow_maps(frames, np.zeros_like(masks), (5, 8, 12)))
    assert not is_still(flow_maps(frames, masks, (5, 8, 12)))


def test_latents_that_do_not_belong_to_the_frames_are_refused():
    frames, masks = clip(5, (8, 0, 4))
    with pytest.raises(BadValue, match="3 latents stand for 3 or 9 frames"):
        flow_maps(frames, masks, (3, 8, 12))
