"""PhotoVerse: branches that are truly left out, drawn once per sample, and never in pictures."""

import pytest
import torch
from safetensors.torch import load_file

from tests.training.methods.adapters import batch, drawn, moved, painted
from tests.training.methods.test_attention_adapters import asked, made
from training.nets.attention_maps import cross_attention, watched
from training.nets.photo_verse import fusion
from training.settings import DropSettings, LossSettings, MethodSettings

NONE = DropSettings(identity=0.0, text=0.0, both=0.0)


def test_a_third_has_the_text_alone_a_third_the_image_alone_and_a_third_both():
    draw = torch.tensor([0.0, 0.33, 0.34, 0.66, 0.67, 0.999])
    assert fusion(draw, NONE).tolist() == [[2, 0], [2, 0], [1, 1], [1, 1], [0, 2], [0, 2]]


def test_what_is_left_of_the_draw_is_divided_and_dropped_samples_have_both():
    drop = DropSettings(identity=0.2, text=0.1, both=0.1)
    draw = torch.tensor([0.1, 0.25, 0.39, 0.41, 0.59, 0.61, 0.79, 0.81, 0.99])
    shares = [tuple(row) for row in fusion(draw, drop).tolist()]
    assert shares == [(1, 1)] * 3 + [(2, 0)] * 2 + [(1, 1)] * 2 + [(0, 2)] * 2
    every = DropSettings(identity=1.0, text=0.0, both=0.0)
    assert fusion(torch.tensor([0.0, 0.999]), every).tolist() == [[1, 1], [1, 1]]


def test_a_branch_that_is_left_out_is_not_looked_at(tmp_path):
    """The reimplementation adds the image before it keeps the text alone."""
    settings = MethodSettings(kind="photo_verse", tokens=3)
    method = moved(made(tmp_path, "photo_verse", method=settings, drop=NONE)).train()
    given = batch()

    def moved_by(draw):
        method.zero_grad(set_to_none=True)
        method(given | {"drop": torch.full((2,), draw)})["loss"].backward()
        return {
            name for name, weight in method.trainable().items()
            if weight.grad is not None and weight.grad.any()
        }  # fmt: skip

    text_alone, both, image_alone = (moved_by(draw) for draw in (0.1, 0.5, 0.9))
    kinds = [{name.partition(".")[0] for name in names} for names in (text_alone, image_alone)]
    assert kinds == [{"text_adapter"}, {"image_adapter", "unet"}]
    assert both == text_alone | image_alone == set(method.trainable())


def test_the_last_layer_is_gamma_text_and_sigma_image_by_hand(tmp_path):
    method = moved(made(tmp_path, "photo_verse"))
    name = method.attention.attention[1]
    layer = method.unet.get_submodule(name.removesuffix(".processor"))
    states, text = drawn(2, 9, layer.to_q.in_features), drawn(2, 5, 32, seed=1)
    tokens, shares = drawn(2, 1, 3, 32, seed=2), torch.tensor([[2.0, 0.0], [0.5, 3.0]])

    def attended(key, value):
        def heads(told):
            return told.unflatten(2, (layer.heads, -1)).transpose(1, 2)

        query = heads(layer.to_q(states))
        scores = query @ heads(key).mT / query.shape[-1] ** 0.5
        return (scores.softmax(-1) @ heads(value)).transpose(1, 2).flatten(2)

    with torch.no_grad():
        processor, image = layer.processor, tokens[:, 0]
        of_text = attended(layer.to_k(text), layer.to_v(text))
        of_image = attended(processor.to_k_ip[0](image), processor.to_v_ip[0](image))
        wanted = layer.to_out[0](shares[:, :1, None] * of_text + shares[:, 1:, None] * of_image)
        ours = layer(states, encoder_hidden_states=(text, [tokens, shares]))
    assert (ours - wanted).abs().max() < 1e-5


def test_pictures_and_evaluation_have_both_branches_whatever_was_drawn(tmp_path):
    """The reimplementation draws in every layer of every call: no picture is drawn twice."""
    method, given = moved(made(tmp_path, "photo_verse", drop=NONE)), batch()
    one = asked(method)
    first, again = painted(method.train(), one), painted(method, one)
    assert torch.equal(first, again)
    assert (first - painted(method.eval(), one)).abs().max() < 1e-5

    def losses():
        drops = [{"drop": torch.full((2,), draw)} for draw in (0.1, 0.5, 0.9)]
        return [method(given | drop)["loss"].item() for drop in drops]

    evaluated = losses()
    method.train()
    with torch.no_grad():
        validated = losses()
    trained = losses()
    assert evaluated == validated == [evaluated[0]] * 3
    assert trained[1] == evaluated[1]
    assert len(set(trained)) == 3


def test_the_size_of_words_and_values_is_weighed_as_the_recipe_says(tmp_path):
    sparse = MethodSettings(kind="photo_verse", lora_rank=4, tokens=3, sparsity=0.5)
    plain = moved(made(tmp_path, "photo_verse")).eval()
    weighed = moved(made(tmp_path, "photo_verse", method=sparse)).eval()
    given = batch()
    words, _ = plain._made(plain._told(given))
    losses = weighed(given)
    assert losses["words"].item() == pytest.approx(words.abs().mean().item(), rel=1e-5)
    added = 0.5 * (losses["words"] + 0.1 * losses["values"])
    assert losses["loss"].item() == pytest.approx((plain(given)["loss"] + added).item(), rel=1e-5)
    assert losses["values"] > 0


def test_the_export_s_parts_are_named(tmp_path):
    method = moved(made(tmp_path / "features", "photo_verse"))
    method.save(tmp_path / "export")
    held = load_file(tmp_path / "export/photoverse.safetensors")
    assert {
        "attention.1.to_k_ip.weight", "attention.1.to_v_lora.up.weight",
        "text_adapter.whole.0.0.weight", "image_adapter.patch.2.6.bias",
    } <= set(held)  # fmt: skip
    lora = [name for name in held if "lora" in name]
    assert len(lora) == 4 * len(method.attention.attention[1::2]), "keys and values, cross alone"
    assert not any(f"attention.{i}." in name for name in held for i in (0, 2))


@torch.no_grad()
def test_what_the_image_adds_is_as_much_as_it_counts_in_each_sample(tmp_path):
    method, given = moved(made(tmp_path, "photo_verse")), batch(3)
    method._shares = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    finest, whole = cross_attention(method.unet)[0], method._told(given)
    with watched(method.unet, [finest]) as seen:
        method._predict(given["latents"], torch.tensor([10, 300, 600]), whole, None)
    told = seen.told[finest]
    tokens, text_alone = told.tokens[:, None], method._shares * torch.tensor([1.0, 0.0])
    with_it, without = (
        told.layer(told.states, encoder_hidden_states=(told.text, [tokens, shares]))
        for shares in (method._shares, text_alone)
    )
    added, stream = method._residual(told)
    torch.testing.assert_close(added, with_it - without, atol=1e-5, rtol=1e-4)
    assert stream is told.stream
    counted, shares = method._attended(told, whole), told.of_identity().sum(dim=-1, keepdim=True)
    assert counted.equal(shares * torch.tensor([0.0, 1.0, 2.0])[:, None, None])


@pytest.mark.parametrize("name", ["fair", "localise"])
def test_who_is_told_by_text_alone_has_no_image_to_look_at(tmp_path, name):
    losses = LossSettings(mse=0.0, **{name: 1.0})
    method = moved(made(tmp_path, "photo_verse", drop=NONE, losses=losses)).train()
    given = batch()
    given["mask"][:, :8] = 0
    alone, both = (method(given | {"drop": torch.full((2,), draw)})[name] for draw in (0.1, 0.5))
    assert alone == 0
    assert both != 0


def test_who_is_told_by_the_image_alone_has_no_prompt_to_edit(tmp_path):
    losses = LossSettings(mse=0.0, edit_direction=1.0)
    method = moved(made(tmp_path, "photo_verse", drop=NONE, losses=losses)).train()
    given = batch() | {"time": torch.full((2,), 0.15)}
    alone, both = (
        method(given | {"drop": torch.full((2,), draw)})["edit_direction"] for draw in (0.9, 0.5)
    )
    assert alone == 0
    assert both > 0
