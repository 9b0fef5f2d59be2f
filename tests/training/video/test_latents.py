"""Features that a method of videos cannot learn from are named before the first step."""

import json
from dataclasses import replace

import pytest
import torch

from infra.errors import BadValue
from tests.training.videos import BASES, COGVIDEOX, MOVING, WITH_PICTURE, features, recipe
from tests.training.videos import write_videos as write
from training.build import build
from training.nets.references import CODEC_PARTS, weights_version
from training.nets.video_presets import load_video_network, load_video_vae
from training.settings import BaseModelSettings, LossSettings, MethodSettings
from training.video.latents import check_latents


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A folder of a tiny CogVideoX with its autoencoder."""
    home = tmp_path_factory.mktemp("pipeline")
    load_video_network(BASES[COGVIDEOX]).save_pretrained(home / "transformer")
    load_video_vae(COGVIDEOX).save_pretrained(home / "vae")
    return home


def prepared(codec):
    """Say that latents were made by what a reference stands for now."""
    made_by = {"codec": weights_version(codec, CODEC_PARTS)}
    return replace(features(COGVIDEOX), codec=codec, weights=made_by)


def test_a_base_s_own_latents_are_learnt_by_whatever_name_its_autoencoder_goes(pipeline, tmp_path):
    base = BaseModelSettings(weights=f"file:{pipeline}")
    for codec in (f"file:{pipeline}", f"file:{pipeline}/vae"):
        check_latents(prepared(codec), base, tmp_path)
    check_latents(prepared(COGVIDEOX), BASES[COGVIDEOX], tmp_path)
    check_latents(prepared(COGVIDEOX), BASES[WITH_PICTURE], tmp_path)  # they share one


def test_latents_of_another_autoencoder_are_refused(pipeline, tmp_path):
    other = tmp_path / "other"
    load_video_vae(COGVIDEOX, seed=1).save_pretrained(other / "vae")
    base = BaseModelSettings(weights=f"file:{pipeline}")
    with pytest.raises(BadValue, match="of another autoencoder, or of another scale; prepare"):
        check_latents(prepared(f"file:{other}"), base, tmp_path)


def test_latents_at_another_scale_are_refused(pipeline, tmp_path):
    other = tmp_path / "other"
    load_video_vae(COGVIDEOX).save_pretrained(other / "vae")
    path = other / "vae/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scaling_factor": 0.5}))
    base = BaseModelSettings(weights=f"file:{pipeline}")
    with pytest.raises(BadValue, match="or of another scale"):
        check_latents(prepared(f"file:{other}"), base, tmp_path)
    for codec, name in (("2b", "5b"), ("5b", "2b")):
        told = replace(features(COGVIDEOX), codec=f"random:cogvideox-{codec}")
        with pytest.raises(BadValue, match=rf"random:cogvideox-{name} knows those of another"):
            check_latents(told, BaseModelSettings(weights=f"random:cogvideox-{name}"), tmp_path)


def test_an_autoencoder_that_was_exchanged_since_is_noticed(tmp_path):
    home = tmp_path / "pipeline"
    load_video_vae(COGVIDEOX).save_pretrained(home / "vae")
    told = prepared(f"file:{home}")
    load_video_vae(COGVIDEOX, seed=1).save_pretrained(home / "vae")
    with pytest.raises(BadValue, match="other weights than its latents were made with; prepare"):
        check_latents(told, BASES[COGVIDEOX], tmp_path)


def test_a_base_of_pictures_frames_is_believed(tmp_path):
    check_latents(replace(features(MOVING), codec="random:tiny-sdxl"), BASES[MOVING], tmp_path)


def test_no_run_begins_on_another_base_s_latents(tmp_path):
    folder = write(tmp_path / "f", COGVIDEOX)
    told = replace(features(COGVIDEOX), codec="random:cogvideox-2b")
    told.write(folder)
    method = MethodSettings(kind="proteus_id")
    with pytest.raises(BadValue, match=r"data\.path cannot be .*random:cogvideox-2b"):
        build(recipe(folder, COGVIDEOX, method=method))


@pytest.mark.parametrize(
    ("lacking", "loss", "said"),
    [
        ("motion", LossSettings(motion=1.0), "no `motion`; prepare the videos with optical flow"),
        ("mask", LossSettings(mse=0.0, masked=1.0), "no `mask`; prepare the pictures with masks"),
    ],
)
def test_a_loss_whose_map_was_not_prepared_says_what_to_prepare(tmp_path, lacking, loss, said):
    folder = write(tmp_path / "f", COGVIDEOX, lacks=(lacking,))
    job = build(recipe(folder, COGVIDEOX, method=MethodSettings(kind="proteus_id"), losses=loss))
    given = next(job.batches.micro(0))
    with pytest.raises(BadValue, match=said):
        job.method(given)
    with torch.no_grad():  # scores compute the plain error alone
        assert job.method(given)["mse"] > 0
