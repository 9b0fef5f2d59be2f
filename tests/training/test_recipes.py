import subprocess
import sys
from dataclasses import replace

import pytest

from infra.configuration import from_yaml, to_yaml
from infra.errors import BadValue, UnknownRecipe
from training.recipes import RECIPES, recipe, tiny
from training.settings import DataSettings, DropSettings, LossSettings, Scale, TrainRecipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_carries_its_name_and_survives_yaml(name, tmp_path):
    (tmp_path / "r.yaml").write_text(to_yaml(recipe(name)))
    again = from_yaml(tmp_path / "r.yaml", TrainRecipe(name="other"))
    assert again == recipe(name)
    assert again.name == name


def test_an_unknown_recipe_gets_a_suggestion():
    with pytest.raises(UnknownRecipe, match="Did you mean 'lfw64'"):
        recipe("lfw46")


@pytest.mark.parametrize(
    "make",
    [
        lambda: replace(tiny(), steps=0),
        lambda: replace(tiny(), batch=9, scale=Scale(workers=2)),
        lambda: replace(tiny(), microbatch=3),
        lambda: Scale(workers=0),
        lambda: DataSettings(heldout_share=1.0),
        lambda: LossSettings(mse=0.0),
        lambda: LossSettings(identity=-1.0),
        lambda: LossSettings(reward_steps=2, reward_gradient_steps=3),
        lambda: DropSettings(identity=0.9, text=0.2),
    ],
)
def test_settings_that_cannot_work_are_refused_when_made(make):
    with pytest.raises(BadValue):
        make()


def test_recipes_are_read_without_torch():
    code = "import sys, training.recipes; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
