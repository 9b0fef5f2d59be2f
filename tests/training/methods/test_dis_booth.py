import shutil
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity, mse_loss

from infra.errors import BadValue, BadWeights
from tests.training.methods.adapters import moved
from tests.training.methods.subjects import (
    FEATURES,
    batch,
    learnt,
    make,
    painted,
    painted_by,
    pipeline,
)
from training.build import load_export
from training.exports import read_tensors, save_tensors
from training.methods.dis_booth import DisBooth
from training.nets.codec import decoded
from training.nets.dis_booth import RestAdapter
from training.nets.vision import load_image_encoder
from training.settings import LossSettings, MethodSettings

DIS_BOOTH = MethodSettings(kind="dis_booth", lora_rank=4)
LOSSES = LossSettings(contrastive_disentangle=0.01)
CLIP = "random:tiny-clip"


def made(folder, **more):
    return make(folder, DisBooth, DIS_BOOTH, **({"losses": LOSSES} | more))


def of_the_subject(count=8):
    return batch(count) | {"is_prior": torch.zeros(count, dtype=torch.bool)}


def rest_of(method, given, pictures=None):
    """Make f_i as the paper says, of pictures in 0 to 1."""
    pictures = decoded(method.codec, given["latents"]) if pictures is None else pictures
    seen = load_image_encoder(CLIP).pooled(pictures)
    counts = method.rest_adapter.mask.sigmoid() * seen.clone()
    return counts + method.rest_adapter.mlp(counts)


def asked(method, given, text):
    noised = method.schedule.noised(given["latents"], given["noise"], given["time"])
    return method.unet(noised.z_t, noised.t, text).sample, noised.target


def test_lora_and_adapter_are_both_trained_and_both_clipped(tmp_path):
    method = moved(made(tmp_path))
    method(of_the_subject())["loss"].backward()
    trained = {name for name, weight in method.named_parameters() if weight.grad is not None}
    # The engine clips the gradients of what it optimises: the original left the adapter out.
    assert trained == set(method.trainable()) == set(method.optimised())
    assert {name.partition(".")[0] for name in trained} == {"unet", "rest_adapter"}


def test_the_loss_is_the_paper_s(tmp_path):
    method, given = moved(made(tmp_path)).eval(), of_the_subject()
    words, rest = method._words(given)["text"], rest_of(method, given)
    whole, target = asked(method, given, words + rest[:, None])
    weak, _ = asked(method, given, words)
    cos = cosine_similarity(words.mean(dim=1), rest, dim=1).mean()
    wanted = mse_loss(whole, target) + 0.01 * mse_loss(weak, target) + 0.001 * cos
    assert method(given)["loss"].item() == pytest.approx(wanted.item(), rel=1e-5)


@torch.no_grad()
def test_the_image_encoder_sees_pictures_in_0_to_1(tmp_path):
    """DisenBooth's code fed it pictures in -1 to 1."""
    method, given = made(tmp_path, losses=LossSettings()).eval(), of_the_subject()
    words, pictures = method._words(given)["text"], decoded(method.codec, given["latents"])
    right, target = asked(method, given, words + rest_of(method, given)[:, None])
    wrong, _ = asked(method, given, words + rest_of(method, given, pictures * 2 - 1)[:, None])
    told = method(given)["loss"].item()
    assert told == pytest.approx(mse_loss(right, target).item(), rel=1e-6)
    assert told != pytest.approx(mse_loss(wrong, target).item(), rel=1e-6)


def test_the_class_is_asked_for_without_what_its_pictures_show(tmp_path):
    method = made(tmp_path, losses=LossSettings(mse=0.0, prior=1.0))
    method(batch() | {"is_prior": torch.ones(8, dtype=torch.bool)})["loss"].backward()
    assert method.rest_adapter.mask.grad.abs().sum() == 0


@pytest.mark.slow
def test_a_handful_of_samples_is_learnt_by_heart(tmp_path):
    history = learnt(made(tmp_path), of_the_subject(), 1e-2)
    assert history[-1] < 0.8 * history[0], history[::5]


def test_a_text_of_another_width_has_one_matrix_more():
    adapter, same = RestAdapter(24, 32, seed=0), RestAdapter(24, 24, seed=0)
    assert adapter(torch.randn(2, 24)).shape == (2, 1, 32)
    assert sum(p.numel() for p in adapter.parameters()) == 24 * 32 + sum(
        p.numel() for p in same.parameters()
    )


def test_features_without_an_image_encoder_are_refused(tmp_path):
    with pytest.raises(BadValue, match="name no image encoder; prepare them with one"):
        made(tmp_path, features=replace(FEATURES, image_encoder=""))


# The export.


def saved(home, **more):
    method = moved(made(home / "features", **more), seed=3).eval()
    method.save(home / "export")
    return method


def test_diffusers_loads_the_lora_and_paints_the_same(tmp_path):
    method, pipe = saved(tmp_path), pipeline()
    pipe.load_lora_weights(tmp_path / "export", weight_name="pytorch_lora_weights.safetensors")
    assert (painted(method) - painted_by(pipe, "a photo of a sks person")).abs().max() < 1e-5
    assert (painted(method) - painted(method, scale=0.0)).abs().max() > 1e-3


def test_an_export_draws_without_the_image_encoder_and_has_all_that_was_trained(tmp_path):
    clip = tmp_path / "clip"
    load_image_encoder(CLIP)._model.save_pretrained(clip)
    method = saved(tmp_path, features=replace(FEATURES, image_encoder=f"file:{clip}"))
    shutil.rmtree(clip)
    shutil.rmtree(tmp_path / "features")
    again = load_export(tmp_path / "export")
    assert torch.equal(painted(again), painted(method))
    theirs = again.trainable()
    assert all(torch.equal(theirs[name], weight) for name, weight in method.trainable().items())


def test_an_adapter_of_another_make_is_refused(tmp_path):
    method = saved(tmp_path)
    path = tmp_path / "export/image_adapter.safetensors"
    held = read_tensors(path)
    save_tensors(path, {name: held[name] for name in held if name != "mlp.0.bias"})
    with pytest.raises(BadWeights):
        method.read(tmp_path / "export")
