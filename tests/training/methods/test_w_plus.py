"""W+ adapter: residual cross-attention, and the published layout."""

import pytest
import torch
from safetensors.torch import load_file

from infra.errors import BadValue
from tests.training.methods.adapters import DIM, batch, drawn, moved
from tests.training.methods.test_attention_adapters import made
from training.nets.attention_maps import cross_attention, watched
from training.nets.w_plus import GROUPS, LAYERS, LatentMapper, LatentTokens
from training.settings import LossSettings


def test_queries_of_the_latent_are_what_came_of_the_text(tmp_path):
    method = moved(made(tmp_path, "w_plus"))
    name = method.attention.attention[1]
    layer = method.unet.get_submodule(name.removesuffix(".processor"))
    states, text, tokens = drawn(2, 9, layer.to_q.in_features), drawn(2, 5, 32), drawn(2, 1, 4, 32)

    def attended(query, key, value):
        def heads(told):
            return told.unflatten(2, (layer.heads, -1)).transpose(1, 2)

        scores = heads(query) @ heads(key).mT / heads(query).shape[-1] ** 0.5
        return (scores.softmax(-1) @ heads(value)).transpose(1, 2).flatten(2)

    with torch.no_grad():
        own, latent = layer.processor, tokens[:, 0]
        first = attended(layer.to_q(states), layer.to_k(text), layer.to_v(text))
        second = attended(own.to_q_wplus(first), own.to_k_wplus(latent), own.to_v_wplus(latent))
        ours = layer(states, encoder_hidden_states=(text, [tokens]))
    assert (ours - layer.to_out[0](first + second)).abs().max() < 1e-5


def test_its_weights_begin_as_the_layer_s_own(tmp_path):
    method = made(tmp_path, "w_plus")
    layer = method.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    for which in ("to_q", "to_k", "to_v"):
        own = getattr(layer.processor, f"{which}_wplus")
        assert torch.equal(own.weight, getattr(layer, which).weight)


def test_nobody_has_latents_of_zeros_and_how_long_a_vector_is_does_not_count():
    mapper, there = LatentMapper(DIM, 64), torch.tensor([[True, False]])
    vectors = drawn(1, 2, DIM)
    styles, longer = mapper(vectors, there), mapper(5 * vectors, there)
    assert styles.shape == (1, 2, LAYERS, 64)
    assert not styles[0, 1].any()
    torch.testing.assert_close(styles, longer)
    assert not torch.allclose(styles[0, 0, 0], styles[0, 0, 1])


def test_each_token_is_made_of_its_own_layers():
    tokens, styles = LatentTokens(64, 32), drawn(1, 1, LAYERS, 64)
    before = tokens(styles)
    first = 0
    for token, layers in enumerate(GROUPS):
        changed = styles.clone()
        changed[:, :, first : first + layers] += 1
        moved_ones = (tokens(changed) - before).abs().amax(dim=-1)[0, 0] > 1e-6
        assert moved_ones.tolist() == [i == token for i in range(4)]
        first += layers
    assert first == LAYERS


def test_the_export_has_the_published_names_and_shapes(tmp_path):
    method = moved(made(tmp_path / "features", "w_plus"))
    method.save(tmp_path / "export")
    held = load_file(tmp_path / "export/wplus_adapter.safetensors")
    parts = {"w_proj": set(), "wplus_adapter": set(), "mapper": set()}
    for name in held:
        part, _, rest = name.partition(".")
        parts[part].add(rest)
    published = {f"proj_{i}.weight" for i in range(4)} | {"norm.weight", "norm.bias"}
    assert parts["w_proj"] == published
    numbers = range(1, len(method.attention.attention), 2)
    assert parts["wplus_adapter"] == {
        f"{i}.to_{which}_wplus.weight" for i in numbers for which in "qkv"
    }
    assert held["w_proj.proj_3.weight"].shape == (32, 6 * 64)


@torch.no_grad()
def test_what_is_added_is_the_output_with_it_less_the_output_without(tmp_path):
    method, given = moved(made(tmp_path, "w_plus")), batch()
    finest = cross_attention(method.unet)[0]
    with watched(method.unet, [finest]) as seen:
        method._predict(given["latents"], torch.tensor([10, 600]), method._told(given), None)
    told = seen.told[finest]
    layer, whole = told.layer, (told.text, [told.tokens[:, None]])
    with_it = layer(told.states, encoder_hidden_states=whole)
    with method.adapter_off():
        without = layer(told.states, encoder_hidden_states=whole)
    added, stream = method._residual(told)
    torch.testing.assert_close(added, with_it - without, atol=1e-5, rtol=1e-4)
    assert stream is told.stream


def test_attention_after_text_s_is_the_latent_s_alone_and_cannot_be_localised(tmp_path):
    with pytest.raises(BadValue, match=r"localise .* no attention to identity beside text"):
        made(tmp_path, "w_plus", losses=LossSettings(localise=1.0))
