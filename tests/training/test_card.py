import re
from dataclasses import replace

import pytest
import torch
import yaml

from infra.configuration import to_dict
from tests.training.methods.adapters import FEATURES
from training.build import METHODS, build
from training.card import card
from training.recipes import lfw64
from training.settings import DataSettings, MethodSettings, TrainRecipe


def test_a_card_says_what_is_known_and_what_is_not():
    told = card(TrainRecipe(name="mine"), FEATURES)
    for said in ("# mine", "`c0ffee`", "licences of its pictures: not stated", "CC0-1.0",
                 "Not measured yet", "without their consent"):  # fmt: skip
        assert said in told
    known = card(
        TrainRecipe(name="mine"),
        FEATURES,
        licences={"CC-BY-4.0": 3, "": 2},
        scores={"auc": "0.95 (0.93 to 0.97)"},
    )
    assert "2 not stated, 3 CC-BY-4.0" in known
    assert "| auc | 0.95 (0.93 to 0.97) |" in known


def test_the_recipe_in_a_card_can_be_run_again():
    recipe = lfw64()
    (block,) = re.findall(r"^```yaml\n(.*?)^```", card(recipe, FEATURES), re.MULTILINE | re.DOTALL)
    assert yaml.safe_load(block) == to_dict(recipe)


def test_a_card_states_the_licences_that_the_features_know():
    told = card(TrainRecipe(name="mine"), replace(FEATURES, licences={"CC0": 4}))
    assert "licences of its pictures: 4 CC0" in told


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("variant", ["faceid", "plus", "portrait"])
@pytest.mark.parametrize("condition", ["identity", "none"])
def test_there_is_a_card_for_every_method(kind, variant, condition):
    method = MethodSettings(kind=kind, variant=variant, condition=condition)
    assert "## How to load it" in card(TrainRecipe(name="x", method=method), FEATURES)


def test_the_card_of_a_generator_loads_it_as_it_says(features, tmp_path):
    small = MethodSettings(kind="base", width=32)
    data = DataSettings(path=str(features), heldout_share=0.0)
    build(TrainRecipe(name="x", data=data, method=small)).method.save(tmp_path / "export")
    told = {"folder": str(tmp_path / "export"), "identity": torch.ones(1, 8)}
    text = (tmp_path / "export/README.md").read_text()
    for code in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(code, told)  # the card's own code
    assert told["pictures"].shape == (1, 3, 32, 32)
    assert told["unet"].config.in_channels == 12
