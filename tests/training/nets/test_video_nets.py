from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.pipelines.cogvideo.pipeline_cogvideox import CogVideoXPipeline
from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler

from infra.errors import BadValue, BadWeights
from tests.training.videos import BASES, COGVIDEOX, MOVING
from training.nets.codec import PatchCodec
from training.nets.presets import load_unet
from training.nets.t5 import load_t5
from training.nets.text import load_text_encoder
from training.nets.video_base import ask, rotary
from training.nets.video_codec import CausalCodec, FrameCodec, load_video_codec
from training.nets.video_presets import (
    count_video_parameters,
    is_video_vae,
    load_video_network,
    load_video_vae,
)  # fmt: skip
from training.noise import NoiseSchedule, correlated
from training.settings import BaseModelSettings, VideoSettings


def drawn(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("shift", "weights"), [(3.0, "cogvideox-2b"), (1.0, "cogvideox-5b")])
def test_the_schedule_is_cogvideox_s_own(shift, weights):
    theirs = CogVideoXDDIMScheduler(
        beta_schedule="scaled_linear", prediction_type="v_prediction",
        rescale_betas_zero_snr=True, snr_shift_scale=shift,
    )  # fmt: skip
    ours = NoiseSchedule(
        BaseModelSettings(
            weights=f"random:{weights}", prediction="v_prediction", zero_snr=True, snr_shift=shift
        )
    )
    torch.testing.assert_close(
        ours.alphas_cumprod, theirs.alphas_cumprod.float(), atol=2e-6, rtol=1e-5
    )
    assert float(ours.alphas_cumprod[-1]) == 0


def test_noise_alone_cannot_be_asked_for_noise():
    with pytest.raises(BadValue, match="give v_prediction"):
        BaseModelSettings(zero_snr=True)
    with pytest.raises(BadValue, match="snr_shift"):
        BaseModelSettings(snr_shift=0.0)
    with pytest.raises(BadValue, match="noise_correlation"):
        VideoSettings(noise_correlation=1.0)


def test_frames_share_noise_as_far_as_they_are_near():
    noise = torch.randn(400, 4, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    mixed = correlated(noise, 0.5).transpose(1, 2).flatten(2).transpose(0, 1).flatten(1)
    found = np.corrcoef(mixed.numpy())
    steps = np.arange(5)
    wanted = 0.5 ** np.abs(steps[:, None] - steps)
    np.testing.assert_allclose(found, wanted, atol=0.03)
    np.testing.assert_allclose(mixed.std(dim=1).numpy(), 1, atol=0.03)
    assert correlated(noise, 0.0) is noise


def test_a_codec_of_pictures_codes_each_frame_by_itself():
    still = PatchCodec()
    still.fit(drawn(32, 3, 32, 32))
    codec, video = FrameCodec(still), drawn(2, 3, 5, 32, 32, seed=1)
    coded = codec.encode(video)
    assert coded.shape == (2, 12, 5, 8, 8)
    torch.testing.assert_close(coded[1, :, 3], still.encode(video[1:, :, 3])[0])
    torch.testing.assert_close(codec.decode(coded)[:, :, 2], still.decode(coded[:, :, 2]))


def test_cogvideox_codes_eight_more_frames_as_two_more_latents():
    codec = CausalCodec(COGVIDEOX)
    video = drawn(1, 3, 9, 32, 32)
    latents = codec.encode(video)
    assert latents.shape == (1, 4, 3, 4, 4)
    assert codec.decode(latents).shape == video.shape
    theirs = codec.vae.encode(video * 2 - 1).latent_dist.mode() * codec.scale
    torch.testing.assert_close(latents, theirs)
    assert codec.encode(video[:, :, :1]).shape == (1, 4, 1, 4, 4)
    with pytest.raises(BadValue, match="one more than a multiple of 8"):
        codec.encode(video[:, :, :5])
    with pytest.raises(BadValue, match="an odd number"):
        codec.decode(latents[:, :, :2])


def test_the_codec_is_found_by_its_reference(tmp_path):
    still = PatchCodec()
    still.save(tmp_path / "codec.safetensors")
    load_video_vae(COGVIDEOX).save_pretrained(tmp_path / "vae")
    assert isinstance(load_video_codec("file:codec.safetensors", tmp_path), FrameCodec)
    assert isinstance(load_video_codec(MOVING, tmp_path), FrameCodec)
    assert isinstance(load_video_codec(COGVIDEOX, tmp_path), CausalCodec)
    assert isinstance(load_video_codec(f"file:{tmp_path}", tmp_path), CausalCodec)
    assert is_video_vae(f"file:{tmp_path}")
    assert not is_video_vae("random:tiny-sd")


def test_networks_are_read_as_they_were_written(tmp_path):
    for base in (MOVING, COGVIDEOX):
        network = load_video_network(BASES[base])
        part = "unet" if base == MOVING else "transformer"
        network.save_pretrained(tmp_path / base[7:] / part)
        reference = f"file:{tmp_path / base[7:]}"
        again = load_video_network(replace(BASES[base], weights=reference))
        held = again.state_dict()
        assert all(torch.equal(held[name], weight) for name, weight in network.state_dict().items())


def test_a_base_of_pictures_moves_by_its_motion_modules(tmp_path):
    load_unet("random:tiny-sd").save_pretrained(tmp_path / "unet")
    still = BaseModelSettings(weights=f"file:{tmp_path}")
    with pytest.raises(BadValue, match="name AnimateDiff's motion modules"):
        load_video_network(still)
    moving = load_video_network(replace(still, motion=MOVING))
    ours, theirs = moving.state_dict(), load_video_network(BASES[MOVING]).state_dict()
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    with pytest.raises(BadValue, match="motion modules are not of this base"):
        load_video_network(replace(still, motion="random:animatediff-sd15"))


def test_what_is_no_base_is_refused_by_name(tmp_path):
    with pytest.raises(BadValue, match="tiny-cogvideox"):
        load_video_network(BaseModelSettings(weights="random:tiny-cogvideo"))
    (tmp_path / "transformer").mkdir()
    with pytest.raises(BadWeights, match="safetensors"):
        load_video_network(BaseModelSettings(weights=f"file:{tmp_path}"))


@pytest.mark.parametrize(
    ("preset", "billions"),
    [("cogvideox-2b", 1.69), ("cogvideox-5b", 5.57), ("animatediff-sd15", 1.28)],
)
def test_bases_are_as_large_as_published(preset, billions):
    assert count_video_parameters(f"random:{preset}") / 1e9 == pytest.approx(billions, abs=0.01)


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (4, 12), (12, 4)])
def test_places_are_those_of_the_pipeline(rows, columns):
    network, codec = load_video_network(BASES[COGVIDEOX]), load_video_vae(COGVIDEOX)
    pipeline = CogVideoXPipeline(None, None, codec, network, CogVideoXDDIMScheduler())
    theirs = pipeline._prepare_rotary_positional_embeddings(8 * rows, 8 * columns, 3, "cpu")
    ours = rotary(network, 3, rows, columns, torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_every_frame_is_told_the_prompt():
    network = load_video_network(BASES[MOVING])
    z_t, t = torch.randn(2, 4, 3, 8, 8), torch.tensor([500, 3])
    text = torch.randn(2, 5, 32)
    by_hand = network(z_t, t, text.repeat_interleave(3, dim=0), return_dict=False)[0]
    with torch.no_grad():
        torch.testing.assert_close(ask(network, z_t, t, text), by_hand.detach())


def test_t5_reads_prompts_as_long_as_it_was_trained_to(tmp_path):
    text = load_text_encoder(COGVIDEOX)
    states, pooled = text.encode(["a face", "", "a prompt that is longer than it"])
    assert states.shape == (3, 16, 32)
    assert pooled is None
    assert text.overlong(["short", "much longer than sixteen bytes"]) == [False, True]
    assert torch.equal(load_t5(COGVIDEOX).encode(["a face"])[0][0], states[0])
    text._model.save_pretrained(tmp_path / "text_encoder")
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(BadWeights, match="holds no vocabulary"):
        load_text_encoder(f"file:{tmp_path}")
