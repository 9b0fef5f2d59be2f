"""What losses see of an adapter's step is what the network does, and costs nothing unasked."""

from dataclasses import replace

import pytest
import torch

from infra.errors import BadValue
from tests.training.methods.adapters import FEATURES, SD, SDXL, batch, drawn, make, moved
from tests.training.objectives.cases import of_any_picture
from training.method import Batch
from training.methods.arc2face import Arc2Face
from training.methods.instant_id import InstantID
from training.methods.ip_adapter_faceid import IPAdapterFaceID
from training.settings import DropSettings, LossSettings, MethodSettings, Scale

FACE_128 = replace(
    FEATURES, identity_dim=128, identity_mean=(0.0,) * 128, identity_std=(1.0,) * 128
)
KINDS = {
    "faceid": (IPAdapterFaceID, MethodSettings(lora_rank=4)),
    "plus": (IPAdapterFaceID, MethodSettings(variant="plus")),
    "instant_id": (InstantID, MethodSettings(kind="instant_id", tokens=4, identity_norm="raw")),
}
LOSSES = {*of_any_picture(), "prior", "dpo", "ipo"}
ALL = dict.fromkeys(LOSSES, 0.1)


def method(folder, kind="faceid", *, base=SD, **more):
    made, settings = KINDS[kind]
    return make(folder, settings, base=base, features=FACE_128, kind=made, **more)


def given(count=2, **more) -> Batch:
    """A batch with clear pictures, in which all losses have something to say."""
    rng = torch.Generator().manual_seed(3)
    mask = torch.zeros(count, 16, 16)
    mask[:, 4:12, 4:12] = 1
    return (
        batch(count)
        | {
            "identity": torch.randn(count, 128, generator=rng),
            "mask": mask,
            "loser_latents": torch.randn(count, 4, 16, 16, generator=rng),
            "time": torch.full((count,), 0.15),
            "is_prior": torch.tensor([False] * (count - 1) + [True]),
        }
        | more
    )


class Shown:
    """In place of an objective: wants what it is told to want, and keeps what it is shown."""

    def __init__(self, real, *wanted):
        self.tools, self.wanted = real.tools, wanted

    def __call__(self, pred, noised, _, __, **shown):
        self.pred, self.noised, self.shown = pred, noised, shown
        return {"loss": pred.mean()}

    def needs(self, what):
        return what in self.wanted


def shown(of, told, *wanted):
    """Return the prediction of one step, and what a loss would be shown."""
    real = of.objective
    del of.objective
    object.__setattr__(of, "objective", Shown(real, *wanted))
    of(told)
    return of.objective.pred, of.objective.noised, of.objective.shown


@pytest.mark.parametrize("kind", KINDS)
def test_asked_again_the_network_says_the_same(tmp_path, kind):
    of = moved(method(tmp_path, kind))
    pred, noised, told = shown(of, given(), "ask")
    assert told["ask"]().equal(pred)
    assert told["ask"](z_t=noised.z_t, t=noised.t, changed={}).equal(pred)
    assert told["prompted"].all()


@pytest.mark.parametrize("kind", KINDS)
def test_asked_without_identity_it_says_what_it_says_to_dropped_samples(tmp_path, kind):
    shares = DropSettings(identity=0.2, text=0.2, both=0.2)
    of = moved(method(tmp_path, kind, drop=shares))
    _, _, told = shown(of, given(), "ask")
    for what, draw in (("identity", 0.1), ("text", 0.3), ("both", 0.5)):
        dropped, _, _ = shown(of, given(drop=torch.full((2,), draw)))
        assert told["ask"](drop=what).equal(dropped)
    assert not told["ask"](drop="identity").equal(told["ask"](drop="text"))


@pytest.mark.parametrize("base", [SD, SDXL])
@pytest.mark.parametrize("kind", KINDS)
def test_asked_as_the_base_it_is_the_base_and_keeps_no_gradient(tmp_path, kind, base):
    of = moved(method(tmp_path, kind, base=base))
    told_batch = given()
    pred, noised, told = shown(of, told_batch, "ask")
    found = told["ask"](base=True)
    assert not found.requires_grad
    assert not found.equal(pred)
    extra = {}
    if base == SDXL:
        extra = {"time_ids": told_batch["size"], "text_embeds": told_batch["pooled"]}
    unet = of.eject()
    text = told_batch["text"]
    with torch.no_grad():
        alone = unet(noised.z_t, noised.t, text, added_cond_kwargs=extra).sample
    assert found.equal(alone)


def test_what_is_changed_is_told_and_all_else_stays(tmp_path):
    of = moved(method(tmp_path))
    other = torch.randn(2, 128, generator=torch.Generator().manual_seed(9))
    _, _, told = shown(of, given(), "ask")
    found = told["ask"](changed={"identity": other})
    assert found.equal(shown(of, given(identity=other))[0])
    text = drawn(2, 5, 32, seed=9)
    assert told["ask"](changed={"text": text}).equal(shown(of, given(text=text))[0])


def test_told_identity_alone_instant_id_sees_no_landmarks(tmp_path):
    of = moved(method(tmp_path, "instant_id"))
    _, _, told = shown(of, given(), "ask")
    elsewhere = {"landmarks": given()["landmarks"] + 9, "text": drawn(2, 5, 32, seed=9)}
    assert told["ask"](drop="rest").equal(told["ask"](drop="rest", changed=elsewhere))
    assert not told["ask"]().equal(told["ask"](changed=elsewhere))


@pytest.mark.parametrize("kind", KINDS)
def test_attention_and_residuals_are_of_every_layer_and_change_nothing(tmp_path, kind):
    of = moved(method(tmp_path, kind))
    plain, _, nothing = shown(of, given())
    pred, _, told = shown(of, given(), "attention", "residuals", "embed")
    assert pred.equal(plain)
    assert nothing.keys() == {"prompted"}
    for shares in told["attention"].values():
        assert shares.shape[0] == 2
        assert 0 < shares.min() < shares.max() < 1
    layers = [name for name in of.unet.attn_processors if name.endswith("attn2.processor")]
    assert len(told["residuals"]) == len(layers)
    assert told["embed"](given()).shape[2] == of._gives().embed


@pytest.mark.parametrize("kind", KINDS)
def test_all_losses_together_reach_all_that_is_trained(tmp_path, kind):
    of = method(tmp_path, kind, losses=LossSettings(**ALL, reward_steps=2))
    losses = of(given(4))
    assert losses.keys() >= {"loss", *LOSSES}
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(losses[name] != 0 for name in LOSSES - {"triplet"})
    losses["loss"].backward()
    weights = of.optimised()
    assert {name for name in weights if name.startswith("objective.")}
    assert [name for name, weight in weights.items() if weight.grad is None] == []
    assert not any(name.startswith("objective.") for name in of.trainable())


def test_gradients_of_all_losses_are_the_same_under_gradient_checkpointing(tmp_path):
    found = []
    for checkpointed in (False, True):
        scale = Scale(gradient_checkpointing=checkpointed)
        losses = LossSettings(**ALL, reward_steps=2, reward_gradient_steps=2)
        of = moved(method(tmp_path, losses=losses, scale=scale)).train()
        of(given(4))["loss"].backward()
        found.append({name: weight.grad for name, weight in of.optimised().items()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["reward", "decorrelate"])
def test_methods_without_a_base_are_asked_again_too(tmp_path, name):
    of = make(
        tmp_path, MethodSettings(kind="arc2face"), kind=Arc2Face, features=FACE_128,
        base="random:tiny-sd128", losses=LossSettings(mse=0.0, reward_steps=2, **{name: 1.0}),
    )  # fmt: skip
    losses = of(given())
    losses["loss"].backward()
    assert losses[name] != 0
    assert [n for n, weight in of.optimised().items() if weight.grad is None] == []


@pytest.mark.parametrize("name", ["identity", "triplet", "reward", "decorrelate"])
def test_steps_of_one_recipe_are_the_same_twice(tmp_path, name):
    of = method(tmp_path, losses=LossSettings(mse=0.0, reward_steps=2, **{name: 1.0}))
    state = torch.get_rng_state()
    first, second = of(given()), of(given())
    assert first["loss"].equal(second["loss"])
    assert torch.get_rng_state().equal(state)


def test_an_export_holds_no_adversary(tmp_path):
    losses = LossSettings(identity_adversary=0.1, decorrelate=0.1)
    of = method(tmp_path, losses=losses)
    assert len(of.objective.trainable()) > 0
    of.save(tmp_path / "export")
    assert of.read(tmp_path / "export").keys() == of.trainable().keys()


def test_a_loss_that_looks_inside_is_refused_beside_compilation(tmp_path):
    of = method(tmp_path, losses=LossSettings(localise=0.1), scale=Scale(compile=True))
    with pytest.raises(BadValue, match=r"scale\.compile .* looks at attention"):
        of(given())


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("localise", "no attention to identity"),
        ("fair", "adds nothing to attention"),
        ("edit_direction", "no frozen base"),
        ("enhanced_contrast", "nothing that could be left out"),
    ],
)
def test_a_loss_is_refused_by_a_method_that_cannot_show_it(tmp_path, name, cure):
    with pytest.raises(BadValue, match=f"losses.{name} .* {cure}"):
        make(
            tmp_path, MethodSettings(kind="arc2face"), kind=Arc2Face,
            losses=LossSettings(**{name: 0.1}),
        )  # fmt: skip
