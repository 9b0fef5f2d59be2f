"""Small exports and registries of them: real ones, their networks tiny and their weights random."""

import pytest
import torch
from safetensors.torch import save_file

from infra.registry import Registry
from training.build import METHODS
from training.features import EMPTY_FILE, Features
from training.nets.codec import BESIDE, CODEC_FILE, PatchCodec
from training.nets.text import load_text_encoder
from training.settings import BaseModelSettings, DropSettings, MethodSettings, TrainRecipe

DIM = 8
EMBEDDER = "test@0"


def tiny_export(folder, *, seed=0, text=True, lora_rank=4):
    """Write an IP-Adapter-FaceID of random weights on ``random:tiny-sd``, 32 px."""
    return _write(
        folder,
        TrainRecipe(name="tiny", method=MethodSettings(lora_rank=lora_rank), seed=seed),
        _features(
            codec="random:tiny-sd",
            latent_shape=(4, 8, 8),
            text_shape=(77, 32) if text else (0, 0),
            text_encoder="random:tiny-sd" if text else "",
        ),
    )


def tiny_base(folder, *, seed=0, condition="identity"):
    """Write a small generator from scratch, 32 px, with a patch codec beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    codec = PatchCodec()
    codec.fit(torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    codec.save(folder / CODEC_FILE)
    recipe = TrainRecipe(
        name="tiny_base",
        base=BaseModelSettings(prediction="v_prediction", beta_schedule="squaredcos_cap_v2"),
        method=MethodSettings(kind="base", width=32, condition=condition),
        seed=seed,
    )
    return _write(folder, recipe, _features(codec=BESIDE, latent_shape=(12, 8, 8)))


def tiny_subject(folder, kind, word, *, seed=0):
    """Write what one person's tuning leaves, on ``random:tiny-sd``, 32 px."""
    recipe = TrainRecipe(
        name="tiny_subject",
        method=MethodSettings(kind=kind, lora_rank=4, subject_word=word),
        drop=DropSettings(identity=0.0, text=0.0, both=0.0),
        seed=seed,
    )
    features = _features(
        codec="random:tiny-sd", latent_shape=(4, 8, 8), text_shape=(77, 32),
        text_encoder="random:tiny-sd",
    )  # fmt: skip
    return _write(folder, recipe, features)


def tiny_registry(home, **exports):
    """Release exports to an MLflow in a folder, each as version 1 of a name, its champion."""
    registry = Registry(str(home))
    for name, export in exports.items():
        version = registry.register(name, export, {"visage.corpus": "c0ffee"})
        registry.move(name, "champion", version.version)
    return registry


def _features(*, codec, latent_shape, text_shape=(0, 0), text_encoder=""):
    return Features(
        corpus="c0ffee", image_px=32, codec=codec, latent_shape=latent_shape,
        text_shape=text_shape, text_encoder=text_encoder, identity_dim=DIM, embedder=EMBEDDER,
        backend="dlib", identity_mean=(0.0,) * DIM, identity_std=(1.0,) * DIM,
    )  # fmt: skip


def _write(folder, recipe, features):
    folder.mkdir(parents=True, exist_ok=True)
    if features.text_encoder:
        text, _ = load_text_encoder(features.text_encoder).encode([""])
        save_file({"text": text[0].clone()}, folder / EMPTY_FILE)
    module, _, name = METHODS[recipe.method.kind].partition(":")
    method = getattr(__import__(module, fromlist=[name]), name)(recipe, features, folder)
    rng = torch.Generator().manual_seed(recipe.seed)
    with torch.no_grad():
        for weight in method.trainable().values():
            weight.add_(0.3 * weight.std() * torch.randn(weight.shape, generator=rng))
    method.save(folder)
    return folder


@pytest.fixture(autouse=True)
def _one_thread():
    """Let tests share a machine, and leave no number of threads behind."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
