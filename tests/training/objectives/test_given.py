"""Which methods give a loss what it looks at: what is accepted teaches, all else is refused."""

import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

from infra.errors import BadValue
from tests.training.methods import test_attention_adapters, test_research_adapters
from tests.training.methods.adapters import FEATURES, SD, TOKENS, batch, drawn, make, moved
from tests.training.methods.test_step_on_base import FACE_128
from training.build import METHODS
from training.objective import Objective
from training.settings import LossSettings, MethodSettings

LOOKING = {"localise", "fair", "edit_direction", "enhanced_contrast", "contrastive_disentangle",
           "decorrelate"}  # fmt: skip
GIVEN = {
    "ip_adapter_faceid": LOOKING,
    "instant_id": LOOKING,
    "consistent_id": LOOKING,
    "dp_adapter": LOOKING,
    "w_plus": LOOKING - {"localise"},
    "face_chain_fact": LOOKING - {"localise"},
    "photo_verse": LOOKING - {"decorrelate"},
    "fast_composer": LOOKING - {"fair", "decorrelate"},
    "uni_id": LOOKING - {"edit_direction", "enhanced_contrast"},
    "infinite_id": {"fair", "contrastive_disentangle", "decorrelate"},
    "arc2face": {"contrastive_disentangle", "decorrelate"},
}
SETTINGS = (
    test_attention_adapters.SETTINGS
    | {kind: settings for kind, (_, settings) in test_research_adapters.KINDS.items()}
    | {
        "ip_adapter_faceid": MethodSettings(),
        "instant_id": MethodSettings(kind="instant_id", identity_norm="raw"),
        "arc2face": MethodSettings(kind="arc2face"),
    }
)
TEXTLESS = replace(FEATURES, text_shape=(0, 0))


def made(folder, kind, *, features=FACE_128, **more):
    module, _, name = METHODS[kind].partition(":")
    base = "random:tiny-sd128" if kind == "arc2face" else SD
    features = replace(features, text_encoder=SD if features.text_shape[0] else "")
    how = {"base": base, "features": features} | more
    return make(folder, SETTINGS[kind], kind=getattr(import_module(module), name), **how)


def given():
    """Four samples with clear pictures; of two branches that learn apart, two teach each."""
    rng, mask = torch.Generator().manual_seed(3), torch.zeros(4, 16, 16)
    mask[:, 4:12, 4:12] = 1
    return batch(4) | {
        "identity": torch.randn(4, 128, generator=rng),
        "mask": mask,
        "time": torch.full((4,), 0.15),
        "drop": torch.tensor([0.6, 0.6 + 1 / 4096, 0.7, 0.7 + 1 / 4096]),
    }


@pytest.mark.parametrize("kind", GIVEN)
def test_an_accepted_loss_moves_the_method_and_any_other_is_refused(tmp_path, kind):
    losses = LossSettings(mse=0.0, **dict.fromkeys(GIVEN[kind], 1.0))
    of = moved(made(tmp_path, kind, losses=losses)).train()
    gives = of.objective.tools.gives
    told = given() | {"text": drawn(4, TOKENS, gives.embed)}
    for name in sorted(GIVEN[kind]):
        of.objective.weights = {"mse": 0.0, name: 1.0}
        of.zero_grad()
        of(told)["loss"].backward()
        moves = [weight.grad for weight in of.trainable().values() if weight.grad is not None]
        assert max(float(gradient.abs().max()) for gradient in moves) > 1e-4, name
    for name in sorted(LOOKING - GIVEN[kind]):
        with pytest.raises(BadValue, match=rf"losses\.{name} .*; use a.* or set it to 0\.$"):
            Objective(LossSettings(**{name: 1.0}), of.schedule, of.codec, of.features, gives)


def test_the_readme_of_training_says_so():
    text = (Path(__file__).parents[3] / "training/README.md").read_text()
    table = text.partition("## Which losses a method takes")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    names = [[re.findall(r"`(\w+)`", cell) for cell in row] for row in rows]
    assert {kind: set(losses) for kinds, losses in names for kind in kinds} == GIVEN


@pytest.mark.parametrize("kind", ["ip_adapter_faceid", "w_plus", "photo_verse"])
def test_where_no_text_is_told_none_can_be_left_out(tmp_path, kind):
    for name in ("edit_direction", "enhanced_contrast"):
        with pytest.raises(BadValue, match=f"losses.{name} .* nothing that could be left out"):
            made(tmp_path, kind, features=TEXTLESS, losses=LossSettings(**{name: 1.0}))


def test_landmarks_can_be_left_out_where_no_text_is_told(tmp_path):
    losses = LossSettings(mse=0.0, enhanced_contrast=1.0)
    textless = replace(FACE_128, text_shape=(0, 0))
    of = moved(made(tmp_path, "instant_id", features=textless, losses=losses))
    of({name: value for name, value in given().items() if name != "text"})["loss"].backward()
    assert any(weight.grad.abs().sum() > 0 for weight in of.adapter.resampler.parameters())


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("consistent_id", lambda cross, _: cross[1][0].flatten(1, 2)),
        ("w_plus", lambda cross, _: cross[1][0].flatten(1, 2)),
        ("photo_verse", lambda cross, tokens: cross[0][:, -tokens:]),
        ("fast_composer", lambda cross, _: cross[:, -1:]),
    ],
)
def test_identity_tokens_are_those_that_cross_attention_is_told(tmp_path, kind, told):
    of = moved(made(tmp_path, kind))
    whole = of._told(given())
    tokens = of._embed(whole)
    assert tokens.equal(told(of._cross(whole), of.recipe.method.tokens))
    assert tokens.shape[2] == of._gives().embed


@pytest.mark.parametrize("kind", ["fast_composer", "photo_verse"])
def test_a_photograph_is_not_compared_with_itself(tmp_path, kind):
    """Both twins of a batch are told its one image, and these methods make tokens of that alone."""
    of = moved(made(tmp_path, kind))
    twins = given(), given() | {"identity": given()["target_identity"]}
    one, other = (of._embed(of._told(each)) for each in twins)
    assert one.equal(other)
    with pytest.raises(BadValue, match=r"decorrelate .* than the person's vector"):
        made(tmp_path, kind, losses=LossSettings(decorrelate=1.0))
