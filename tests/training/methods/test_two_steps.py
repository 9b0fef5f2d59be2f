"""The two-step way: faces first, then an adapter for identity on the frozen network."""

from dataclasses import replace

import pytest
import torch

from infra.errors import BadValue
from training.build import build, load_export
from training.method import Condition, Sampling
from training.recipes import lfw64_adapter, lfw64_base
from training.settings import DataSettings, MethodSettings


def on(recipe, features, **more):
    data = DataSettings(path=str(features), heldout_share=0.0)
    return replace(recipe, data=data, batch=8, microbatch=8, **more)


def trained(recipe, steps=3):
    job = build(recipe)
    optimiser = torch.optim.AdamW(job.method.trainable().values(), lr=1e-3)
    for step in range(steps):
        (batch,) = job.batches.micro(step)
        loss = job.method(batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return job.method.eval()


@pytest.fixture
def base(features, tmp_path):
    """A base that learnt a little, and its export."""
    small = MethodSettings(kind="base", condition="none", width=32)
    method = trained(on(lfw64_base(), features, method=small))
    method.save(tmp_path / "base")
    return method


def adapter(features, tmp_path, where="base", **more):
    recipe = on(lfw64_adapter(), features)
    return replace(recipe, base=replace(recipe.base, weights=f"file:{tmp_path}/{where}"), **more)


def drawn(method, **how):
    rng = torch.Generator().manual_seed(3)
    return method.generate(Condition(torch.ones(2, 8)), rng, Sampling(steps=4, **how))


@pytest.mark.parametrize("where", ["base", "base/unet"])
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_with_the_adapter_off_the_base_s_own_faces_are_drawn(
    features, base, tmp_path, lora_rank, where
):
    settings = replace(lfw64_adapter().method, lora_rank=lora_rank)
    method = trained(adapter(features, tmp_path, where, method=settings))
    assert torch.equal(drawn(method, scale=0.0), drawn(base))
    assert not torch.equal(drawn(method), drawn(base))


def test_only_the_adapter_is_trained_and_exported(features, base, tmp_path):
    method = trained(adapter(features, tmp_path))
    method.save(tmp_path / "adapter")
    held = base.unet.state_dict()
    kept = {n.replace(".base_layer", ""): w for n, w in method.unet.state_dict().items()}
    assert all(torch.equal(kept[name], weight) for name, weight in held.items())
    assert not (tmp_path / "adapter/unet").exists()
    assert torch.equal(drawn(load_export(tmp_path / "adapter")), drawn(method))


def test_a_base_that_is_asked_for_something_else_is_refused(features, base, tmp_path):  # noqa: ARG001
    recipe = adapter(features, tmp_path)
    for changed, why in (
        ({"prediction": "epsilon"}, r"base\.prediction cannot be 'epsilon'.*'v_prediction'"),
        ({"beta_schedule": "scaled_linear"}, r"base\.beta_schedule cannot .*'squaredcos_cap_v2'"),
    ):
        with pytest.raises(BadValue, match=why):
            build(replace(recipe, base=replace(recipe.base, **changed)))


def test_a_base_that_learnt_identity_itself_is_refused(features, tmp_path):
    small = MethodSettings(kind="base", width=32)
    build(on(lfw64_base(), features, method=small)).method.save(tmp_path / "base")
    for where in ("base", "base/unet"):
        with pytest.raises(BadValue, match=r"learnt identity itself.*lfw64_base"):
            build(adapter(features, tmp_path, where))


def test_a_base_has_to_be_named(features):
    with pytest.raises(BadValue, match="name the base: file:"):
        build(on(lfw64_adapter(), features))
