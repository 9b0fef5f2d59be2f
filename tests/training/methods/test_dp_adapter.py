from dataclasses import replace
from math import log

import pytest
import torch

from infra.errors import BadValue
from tests.training.methods.adapters import batch, moved, painted
from tests.training.methods.test_research_adapters import KINDS, asked, gradients, made
from training.nets.attention_maps import cross_attention, watched
from training.nets.dp_adapter import _at_positions, learning
from training.settings import LossSettings

METHOD = KINDS["dp_adapter"][1]
FACE = ("to_k_ip", "to_v_ip", "image_proj")
REST = ("to_k_text", "to_v_text")


def half_face(count=2):
    given = batch(count)
    given["mask"] = torch.zeros(count, 16, 16)
    given["mask"][:, :, :8] = 1
    return given


@pytest.mark.parametrize(("mask", "still"), [(1.0, REST), (0.0, FACE)])
def test_each_pathway_learns_its_own_region_alone(tmp_path, mask, still):
    method, given = moved(made(tmp_path, "dp_adapter")), batch()
    found = gradients(method, given | {"mask": torch.full((2, 16, 16), mask)})
    for name, gradient in found.items():
        if "blend" not in name:
            assert bool(gradient.any()) is not any(part in name for part in still), name


def test_a_new_layer_knows_no_regions_and_learns_them(tmp_path):
    method, given = made(tmp_path, "dp_adapter"), half_face(2)
    assert method(given)["regions"].item() == pytest.approx(log(2), abs=1e-6)
    blends = [w for name, w in method.trainable().items() if "blend" in name]
    optimiser = torch.optim.AdamW(blends, lr=0.05)
    for _ in range(8):
        optimiser.zero_grad()
        losses = method(given)
        losses["loss"].backward()
        optimiser.step()
    assert losses["regions"].item() < 0.98 * log(2)


def test_regions_are_of_the_loss_by_their_weight_and_move_no_pathway(tmp_path):
    given = half_face()
    losses, found = [], []
    for weight in (0.0, 2.0):
        ours = moved(made(tmp_path, "dp_adapter", method=replace(METHOD, region_weight=weight)))
        losses.append({name: term.item() for name, term in ours(given).items()})
        found.append(gradients(ours, given))
    without, heavy = losses
    assert heavy["mse"] == without["mse"] == pytest.approx(without["loss"], abs=1e-6)
    assert heavy["loss"] == pytest.approx(heavy["mse"] + 2 * heavy["regions"], abs=1e-5)
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]) is ("blend" not in name), name
    with pytest.raises(BadValue, match=r"method\.region_weight"):
        replace(METHOD, region_weight=-1.0)


def test_layers_blend_by_the_mask_in_training_and_by_their_own_guess_in_drawing(tmp_path):
    method, given = moved(made(tmp_path, "dp_adapter")), half_face()
    ask = asked(method)
    loss, picture = method(given)["mse"], painted(method, ask, steps=1)
    with torch.no_grad():
        for name, weight in method.trainable().items():
            if "blend" in name:
                weight += 3
    assert torch.equal(method(given)["mse"], loss)
    assert not torch.equal(painted(method, ask, steps=1), picture)
    other = given | {"mask": 1 - given["mask"]}
    assert not torch.equal(method(other)["mse"], loss)


def test_a_mask_is_brought_to_the_positions_of_a_layer():
    mask = torch.arange(24.0).view(1, 4, 6)
    means = _at_positions(mask, torch.zeros(1, 6, 1))
    assert means.shape == (1, 6, 1)
    assert means[0, 0] == mask[0, :2, :2].mean()
    assert means[0, -1] == mask[0, 2:, 4:].mean()
    odd = _at_positions(torch.ones(1, 5, 3), torch.zeros(1, 6, 1))
    assert torch.equal(odd, torch.ones(1, 6, 1)), "a UNet halves 5 x 3 to 3 x 2"
    assert torch.equal(_at_positions(mask, torch.zeros(1, 24, 1)).flatten(), mask.flatten())


def test_merges_are_of_the_face_s_pathway_too(tmp_path):
    method = moved(made(tmp_path, "dp_adapter")).eval()
    ask = asked(method)
    plain = painted(method, ask, steps=1)
    for option in ("rescale", "adain_mean"):
        assert not torch.equal(painted(method, ask, steps=1, **{option: True}), plain)
    assert torch.equal(painted(method, ask, steps=1), plain)


@torch.no_grad()
def test_what_is_added_is_the_output_with_it_less_the_output_without(tmp_path):
    """Of the face where the mask is, of the rest elsewhere: neither where it does not count."""
    method, given = moved(made(tmp_path, "dp_adapter")).eval(), half_face()
    finest = cross_attention(method.unet)[0]
    with learning(given["mask"]), watched(method.unet, [finest]) as seen:
        method._predict(given["latents"], torch.tensor([10, 600]), method._told(given), None)
        told = seen.told[finest]
        added, stream = method._residual(told)
    layer, whole = told.layer, (told.text, [told.tokens[:, None], given["mask"]])
    with_it = layer(told.states, encoder_hidden_states=whole)
    with method.adapter_off():
        without = layer(told.states, encoder_hidden_states=whole)
    torch.testing.assert_close(added, with_it - without, atol=1e-5, rtol=1e-4)
    assert stream is told.stream


@pytest.mark.parametrize(("mask", "still"), [(1.0, REST), (0.0, FACE)])
def test_fair_moves_the_pathway_of_the_rest_alone(tmp_path, mask, still):
    """Where all is face, nothing is added elsewhere; where none is, nothing is of identity."""
    method = moved(made(tmp_path, "dp_adapter", losses=LossSettings(mse=0.0, fair=1.0)))
    given = batch() | {"mask": torch.full((2, 16, 16), mask)}
    assert bool(method(given)["fair"] > 0) is (mask == 0)
    for name, gradient in gradients(method, given).items():
        moves = gradient is not None and bool(gradient.any())
        if "blend" not in name:
            assert moves is (mask == 0 and not any(part in name for part in still)), name
