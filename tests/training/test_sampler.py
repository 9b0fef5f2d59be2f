"""Drawing, by an adapter with a tiny autoencoder and by a generator with a patch code."""

from dataclasses import replace

import pytest
import torch

from infra.errors import BadValue
from tests.training.methods.adapters import (
    FEATURES,
    SD,
    SDXL,
    VARIANTS,
    condition,
    drawn,
    make,
    moved,
    painted,
)
from training.build import build
from training.method import Condition, Sampling, Stopped
from training.recipes import lfw64
from training.sampler import latent_shape
from training.settings import DataSettings, MethodSettings


@pytest.fixture(params=["base", SD, SDXL])
def method(request, tmp_path, features):
    if request.param != "base":
        return moved(make(tmp_path / "adapter", VARIANTS["faceid with LoRA"], base=request.param))
    data = DataSettings(path=str(features), heldout_share=0.0)
    small = MethodSettings(kind="base", width=32)
    return build(replace(lfw64(), data=data, method=small, batch=8, microbatch=8)).method


def asked_of(method, count):
    if method.recipe.method.kind == "base":
        return Condition(drawn(count, 8, seed=2))
    return condition(method, count)


def part(asked, i):
    held = {name: value for name, value in vars(asked).items() if value is not None}
    return Condition(**{name: value[i : i + 1] for name, value in held.items()})


def rngs(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_a_sample_with_its_own_generator_is_the_same_in_any_company(method):
    asked, how = asked_of(method, 3), Sampling(steps=3)
    together = method.generate(asked, rngs(5, 6, 7), how)
    for i, seed in enumerate((5, 6, 7)):
        alone = method.generate(part(asked, i), rngs(seed), how)
        assert (alone[0] - together[i]).abs().max() < 1e-4
    with pytest.raises(BadValue, match="give one per sample, 3, or one"):
        method.generate(asked, rngs(5, 6), how)


def test_one_call_leaves_no_trace_in_the_next(method):
    asked = asked_of(method, 2)

    def once():
        return method.generate(asked, torch.Generator().manual_seed(1), Sampling(steps=3))

    before = once()

    def inside(step, _):
        if step == 1:
            method.generate(asked, rngs(8, 9), Sampling(steps=5))
        return False

    around = method.generate(
        asked, torch.Generator().manual_seed(1), Sampling(steps=3), callback=inside
    )
    assert torch.equal(around, before)
    assert torch.equal(once(), before)


def test_who_watches_sees_every_step_and_can_end_it(method):
    asked, seen = asked_of(method, 2), []

    def watch(step, clean):
        seen.append((step, clean.shape))
        return step == 1

    with pytest.raises(Stopped, match="after step 1"):
        method.generate(asked, rngs(1, 2), Sampling(steps=4), callback=watch)
    assert seen == [(step, (2, *method.features.latent_shape)) for step in (0, 1)]
    before = method.generate(asked, rngs(1, 2), Sampling(steps=2))
    assert torch.equal(method.generate(asked, rngs(1, 2), Sampling(steps=2)), before)


def test_the_last_estimate_is_the_picture(tmp_path):
    method, seen = moved(make(tmp_path)), []
    asked = condition(method)
    picture = method.generate(
        asked, rngs(1, 2), Sampling(steps=2),
        callback=lambda _, clean: bool(seen.append(clean)),
    )  # fmt: skip
    assert (method.codec.decode(seen[-1]).clamp(0, 1) - picture).abs().max() < 1e-5


def test_an_edit_keeps_what_is_outside_its_mask(features):
    data = DataSettings(path=str(features), heldout_share=0.0)
    small = MethodSettings(kind="base", width=32)
    method = build(replace(lfw64(), data=data, method=small, batch=8, microbatch=8)).method
    source, mask = drawn(2, 12, 8, 8, seed=30), torch.zeros(2, 8, 8)
    mask[:, :, 4:] = 1
    asked = Condition(drawn(2, 8, seed=2), source=source, mask=mask)
    edited = method.generate(asked, rngs(1, 2), Sampling(steps=3))
    kept = method.codec.decode(source).clamp(0, 1)
    assert torch.allclose(edited[..., :16], kept[..., :16], atol=1e-6)
    assert (edited - kept)[..., 16:].abs().mean() > 1e-2


def test_a_weak_edit_stays_nearer_to_its_source_and_takes_fewer_steps(tmp_path):
    method, counts = moved(make(tmp_path)), []
    asked = replace(condition(method), source=drawn(2, 4, 16, 16, seed=30))
    kept = method.codec.decode(asked.source).clamp(0, 1)
    away = []
    for strength in (0.25, 1.0):
        steps = []
        picture = method.generate(
            asked, rngs(1, 2), Sampling(steps=4, strength=strength),
            callback=lambda step, _, steps=steps: bool(steps.append(step)),
        )  # fmt: skip
        counts.append(steps)
        away.append(float((picture - kept).abs().mean()))
    assert counts == [[3], [0, 1, 2, 3]]
    assert away[0] < away[1]


def test_a_size_is_in_pixels_and_whole_latents(tmp_path):
    method = moved(make(tmp_path, base=SDXL))
    assert painted(method, size_px=(64, 32)).shape == (2, 3, 64, 32)
    assert torch.equal(painted(method, size_px=(64, 64)), painted(method))
    with pytest.raises(BadValue, match=r"sampling.size_px cannot be \(64, 30\): .* of 4"):
        painted(method, size_px=(64, 30))


def test_buckets_have_the_same_pixels_per_latent():
    wide = replace(FEATURES, image_px=1024, latent_shape=(4, 112, 144))
    assert latent_shape(wide, (512, 1024)) == (4, 64, 128)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"start_step": 31}, {"strength": 0.0}, {"strength": 1.5}]
)
def test_sampling_that_cannot_be_is_refused_when_made(wrong):
    with pytest.raises(BadValue, match=next(iter(wrong))):
        Sampling(**wrong)
