"""Chances of a sample: the same whoever draws them, and what is said becomes of it."""

import numpy as np
import pytest
import torch

from infra.errors import BadValue
from tests.training.videos import WITH_PICTURE, batch, recipe, write_videos
from training.data import Batches
from training.features import Prepared
from training.settings import Scale
from training.video.chances import LOG_SIGMA, LOTS, by_chance, chances, without_shallow
from training.video.settings import VideoSettings

PUBLISHED = VideoSettings(mask_share=0.5, reference_noise=True, reference_dropout=0.05)


def given(lots):
    made = batch(WITH_PICTURE, len(lots))
    noise = torch.randn(made["reference_latents"].shape, generator=torch.Generator().manual_seed(5))
    return made | {"lots": torch.tensor(lots), "reference_noise": noise}


def test_lots_are_the_same_on_one_worker_and_on_two(tmp_path):
    prepared = Prepared(write_videos(tmp_path / "features", WITH_PICTURE))
    samples, how = np.arange(len(prepared)), recipe(tmp_path, WITH_PICTURE, microbatch=2)
    one = list(Batches(prepared, samples, how).micro(1))
    two = Batches(prepared, samples, recipe(tmp_path, WITH_PICTURE, scale=Scale(workers=2),
                                            microbatch=2))  # fmt: skip
    both = [part for rank in (0, 1) for part in two.micro(1, rank, 2)]
    for name in ("lots", "reference_noise", "noise"):
        assert torch.equal(*(torch.cat([part[name] for part in parts]) for parts in (one, both)))
    assert one[0]["lots"].shape == (2, LOTS)
    assert one[0]["reference_noise"].shape == one[0]["reference_latents"].shape


def test_lots_are_of_the_seed_and_the_place_in_the_run():
    first, again, other = (chances(seed, range(2000), None)["lots"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    np.testing.assert_allclose(first.mean(dim=0).numpy(), 0.5, atol=0.03)
    np.testing.assert_allclose(np.corrcoef(first.T.numpy()), np.eye(LOTS), atol=0.08)


def test_a_batch_without_lots_is_shown_as_it_is():
    made = batch(WITH_PICTURE)
    assert by_chance(made, PUBLISHED) is made


def test_at_the_defaults_nothing_of_the_reference_is_changed():
    made = given([[0.0, 0.999, 0.0, 0.0], [0.999, 0.0, 0.999, 0.5]])
    changed = by_chance(made, VideoSettings())
    for name in ("reference_latents", "face_states", "face_pooled", "identity"):
        assert torch.equal(changed[name], made[name])


def test_the_mask_is_the_face_s_for_some_and_the_whole_video_for_others():
    made = given([[0.4, 0, 0.5, 0.5], [0.6, 0, 0.5, 0.5], [0.4, 0, 0.5, 0.5]])
    made["mask"][2] = 0
    mask = by_chance(made, PUBLISHED)["mask"]
    assert torch.equal(mask[0], made["mask"][0])
    assert (mask[1:] == 1).all()


def test_a_reference_gets_noise_of_the_published_size_or_is_left_out():
    made = given([[0.9, 0, 0.5, 0.5], [0.9, 0, 0.04, 0.5]])
    reference = by_chance(made, PUBLISHED)["reference_latents"]
    put = (reference - made["reference_latents"])[0] / made["reference_noise"][0]
    torch.testing.assert_close(put, torch.full_like(put, np.exp(-3.0)), atol=1e-4, rtol=1e-3)
    assert not reference[1].any()
    lots = chances(0, range(4000), None)["lots"]
    sizes = torch.log(torch.exp(LOG_SIGMA[0] + LOG_SIGMA[1] * torch.special.ndtri(lots[:, 3])))
    assert float(sizes.mean()) == pytest.approx(-3.0, abs=0.03)
    assert float(sizes.std()) == pytest.approx(0.5, abs=0.03)


def test_what_is_shallow_is_hidden_and_what_is_deep_stays():
    made = given([[0, 0, 0, 0], [0, 0, 0, 0]])
    changed = without_shallow(made, torch.tensor([True, False]))
    assert not changed["reference_latents"][0].any()
    assert not changed["face_states"][0, :-1].any()
    assert torch.equal(changed["face_states"][0, -1], made["face_states"][0, -1])
    for name in ("identity", "face_pooled"):
        assert torch.equal(changed[name], made[name])
    for name in ("reference_latents", "face_states"):
        assert torch.equal(changed[name][1], made[name][1])


def test_shallow_features_come_in_the_second_stage_and_then_by_lot():
    two_stages = VideoSettings(shallow_share=0.5, shallow_from=0.3)
    made = given([[0.0, lot, 0.5, 0.5] for lot in (0.1, 0.1, 0.9)])
    made["progress"] = torch.tensor([0.2, 0.4, 0.4])
    shown = by_chance(made, two_stages)["reference_latents"].flatten(1).any(dim=1)
    assert shown.tolist() == [False, True, False]


@pytest.mark.parametrize("name", ["mask_share", "reference_dropout", "shallow_share"])
def test_no_share_is_above_one(name):
    with pytest.raises(BadValue, match=f"video.{name}"):
        VideoSettings(**{name: 1.5})
