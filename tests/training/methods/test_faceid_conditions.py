from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from infra.errors import UnreadableSource
from tests.training.methods.adapters import DIM, FEATURES, IMAGE, VARIANTS, batch, empty
from training.features import EMPTY_FILE
from training.methods.faceid_conditions import FaceIDConditions, dropped
from training.nets.identity_tokens import normalised
from training.settings import DropSettings, MethodSettings

STANDARD = MethodSettings(identity_norm="standard")


def conditions(folder, method=STANDARD, features=FEATURES, *, pooled_dim=32):
    folder.mkdir(exist_ok=True)
    save_file(empty(), folder / EMPTY_FILE)
    return FaceIDConditions(method, features, folder, text_width=32, pooled_dim=pooled_dim)


def whole(of, given):
    return of.whole(
        given["identity"], image=given["image"], text=given["text"], pooled=given["pooled"]
    )


def test_shares_divide_the_draw_in_their_order():
    draw = torch.tensor([0.0, 0.09, 0.11, 0.29, 0.31, 0.59, 0.61, 0.99])
    no_identity, no_text = dropped(draw, DropSettings(identity=0.1, text=0.2, both=0.3))
    assert no_identity.tolist() == [True, True, False, False, True, True, False, False]
    assert no_text.tolist() == [False, False, True, True, True, True, False, False]


def test_conditions_are_dropped_per_sample(tmp_path):
    of, given = conditions(tmp_path), batch(4)
    no_identity = torch.tensor([True, False, True, False])
    no_text = torch.tensor([False, True, True, False])
    told = of.without(whole(of, given), no_identity, no_text)
    assert [bool(row.any()) for row in told.faces] == [False, True, False, True]
    assert torch.allclose(told.faces[3, 0], (given["identity"][3] - 0.1) / 0.5)
    for i, silent in enumerate(no_text):
        assert torch.equal(told.text[i], empty()["text"] if silent else given["text"][i])
        assert torch.equal(told.pooled[i], empty()["pooled"] if silent else given["pooled"][i])


def test_nobody_s_image_is_the_empty_picture_s(tmp_path):
    of, given = conditions(tmp_path, VARIANTS["plus"]), batch(2)
    told = of.without(whole(of, given), torch.tensor([True, False]), torch.zeros(2).bool())
    assert told.faces.shape == (2, 1, DIM + IMAGE[0] * IMAGE[1])
    assert not told.faces[0, 0, :DIM].any()
    assert torch.equal(told.faces[0, 0, DIM:].view(IMAGE), empty()["image"])
    assert torch.equal(told.faces[1, 0, DIM:].view(IMAGE), given["image"][1])


@pytest.mark.parametrize("norm", ["raw", "unit", "standard"])
def test_identities_are_normalised_as_the_recipe_says(norm):
    raw = torch.full((1, 2, DIM), 3.0)
    wanted = {"raw": 3.0, "unit": DIM**-0.5, "standard": (3.0 - 0.1) / 0.5}[norm]
    assert torch.allclose(normalised(raw, norm, FEATURES), torch.full((1, 2, DIM), wanted))


def test_zeros_stand_for_text_only_where_none_was_prepared(tmp_path):
    silent = replace(FEATURES, text_shape=(0, 0))
    of = FaceIDConditions(STANDARD, silent, tmp_path, text_width=32, pooled_dim=0)
    told = of.whole(torch.ones(2, DIM), image=None, text=None, pooled=None)
    assert told.text.shape == (2, 1, 32)
    assert not told.text.any()
    with pytest.raises(UnreadableSource, match=r"not the empty prompt's. Prepare"):
        FaceIDConditions(STANDARD, FEATURES, tmp_path, text_width=32, pooled_dim=0)
