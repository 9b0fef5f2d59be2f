from dataclasses import replace

import pytest

from infra.configuration import from_yaml, to_yaml
from infra.errors import BadValue, UnknownRecipe
from pipelines.recipes import (
    RECIPES,
    DecodeSettings,
    DedupeSettings,
    ExportSettings,
    FaceSettings,
    FetchSettings,
    Recipe,
    Workers,
    faceid_6m,
    recipe,
)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_carries_its_name_and_survives_yaml(name, tmp_path):
    made = recipe(name)
    assert made.name == name
    (tmp_path / "r.yaml").write_text(to_yaml(made))
    assert from_yaml(tmp_path / "r.yaml", Recipe(name="other")) == made


def test_an_unknown_recipe_gets_a_suggestion():
    with pytest.raises(UnknownRecipe, match="Did you mean 'faceid_6m'"):
        recipe("faceid_5m")


def test_faceid_6m_has_the_rules_of_its_paper():
    rules = faceid_6m().keep
    assert (rules.min_faces, rules.max_faces, rules.min_face_share) == (1, 3, 0.04)
    assert (rules.min_side_px, len(rules.human_terms)) == (512, 5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FetchSettings(deadline_s=0.0),
        lambda: DecodeSettings(work_px=1),
        lambda: FaceSettings(backend="insightface"),
        lambda: FaceSettings(detect_px=10),
        lambda: DedupeSettings(max_pdq_distance=257),
        lambda: ExportSettings(rows_per_shard=0),
        lambda: Workers(batch_rows=0),
        lambda: replace(faceid_6m().keep, min_faces=7),
    ],
)
def test_settings_that_cannot_work_are_refused_when_made(make):
    with pytest.raises(BadValue):
        make()
