from dataclasses import replace

import pytest
import torch

from infra.errors import BadValue
from tests.training.methods.adapters import SD, SDXL, TOKENS, WIDTH, batch, drawn, moved, painted
from tests.training.methods.test_research_adapters import BASES, asked, made
from training.nets.infinite_id import _MixedSelfAttention
from training.nets.merging import Merge
from training.settings import LossSettings


def infinite_id(folder, base=SD):
    return moved(made(folder, "infinite_id", base=base))


@BASES
def test_no_text_is_told_in_training(tmp_path, base):
    method, given = infinite_id(tmp_path, base), batch()
    loss = method(given)["loss"]
    for name in ("text", "pooled"):
        assert torch.equal(method(given | {name: given[name] + 1})["loss"], loss)
    other = given | {"identity": -given["identity"]}
    assert not torch.equal(method(other)["loss"], loss)


@BASES
def test_text_comes_back_in_drawing(tmp_path, base):
    method = infinite_id(tmp_path, base).eval()
    ask = asked(method)
    other = replace(ask, text=drawn(2, TOKENS, WIDTH, seed=40))
    assert not torch.equal(painted(method, other, steps=1), painted(method, ask, steps=1))


def test_face_and_image_are_both_looked_at(tmp_path):
    method, given = infinite_id(tmp_path), batch()
    tokens = method.image_proj(method._told(given).faces)
    assert tokens.shape == (2, 5 + 4, 32), "a token for each state, and four of the vector"
    for name, changed in (("identity", slice(5, 9)), ("image", slice(0, 5))):
        other = method.image_proj(method._told(given | {name: given[name] + 1}).faces)
        moved_at = (other != tokens).any(dim=2).all(dim=0)
        assert moved_at.nonzero().flatten().tolist() == list(range(9))[changed]


@torch.no_grad()
@pytest.mark.parametrize("base", [SD, SDXL])
def test_identity_s_stream_is_what_it_was_in_training(tmp_path, base):
    method = infinite_id(tmp_path, base).eval()
    given = method._told(batch())
    z_t, t = drawn(2, 4, 16, 16, seed=6), torch.tensor([10, 900])
    alone = method._predict(z_t, t, given, None)
    heard = []
    with method.adapter.mixed(Merge(), 1.0):
        ask = method._ask
        method._ask = lambda *args: heard.append(ask(*args)) or heard[-1]
        mixed = method._predict(z_t, t, given, None)
    both, identity = heard[0].chunk(2)
    torch.testing.assert_close(identity, alone, rtol=1e-4, atol=1e-5)
    assert torch.equal(both, mixed)
    assert (both - identity).abs().max() > 1e-3


@torch.no_grad()
def test_the_text_s_self_attention_also_sees_identity_s(tmp_path):
    method = infinite_id(tmp_path).eval()
    attn = method.unet.get_submodule(method.adapter.attention[0].removesuffix(".processor"))
    states = drawn(4, 6, 32, seed=8)

    def attend(query, key, value):
        parts = [x.view(len(x), -1, attn.heads, 32 // attn.heads).transpose(1, 2)
                 for x in (query, key, value)]  # fmt: skip
        scores = parts[0] @ parts[1].transpose(2, 3) * attn.scale
        return (scores.softmax(3) @ parts[2]).transpose(1, 2).flatten(2)

    q, k, v = attn.to_q(states), attn.to_k(states), attn.to_v(states)
    for merge in (Merge(), Merge(adain_mean=True)):
        key, value = k[2:], v[2:]
        if merge.adain_mean:
            key = key - key.mean(1, keepdim=True) + k[:2].mean(1, keepdim=True)
            value = value - value.mean(1, keepdim=True) + v[:2].mean(1, keepdim=True)
        text = attend(q[:2], torch.cat([key, k[:2]], 1), torch.cat([value, v[:2]], 1))
        expected = attn.to_out[0](torch.cat([text, attend(q[2:], k[2:], v[2:])]))
        torch.testing.assert_close(_MixedSelfAttention(merge, 1.0)(attn, states), expected)
    half = _MixedSelfAttention(Merge(), 0.0)(attn, states)
    torch.testing.assert_close(half, attn.to_out[0](attend(q, k, v)))


def test_adain_mean_is_asked_for_and_drawing_leaves_nothing_behind(tmp_path):
    method = infinite_id(tmp_path).eval()
    ask, before = asked(method), repr(method.unet)
    plain = painted(method, ask, steps=1)
    assert not torch.equal(painted(method, ask, steps=1, adain_mean=True), plain)
    assert torch.equal(painted(method, ask, steps=1), plain)
    assert repr(method.unet) == before
    assert not method.adapter.mixes
    given = batch()
    assert torch.equal(method(given)["loss"], method(given)["loss"])


def test_each_picture_is_the_same_in_any_company(tmp_path):
    method = infinite_id(tmp_path).eval()
    ask = asked(method)
    rngs = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    from training.method import Sampling

    both = method.generate(ask, rngs, Sampling(steps=1))
    first = replace(ask, identity=ask.identity[:1], text=ask.text[:1], image=ask.image[:1])
    alone = method.generate(first, [torch.Generator().manual_seed(1)], Sampling(steps=1))
    torch.testing.assert_close(both[:1], alone, rtol=1e-4, atol=1e-5)


def test_attention_that_is_all_identity_s_cannot_be_localised(tmp_path):
    """A joint softmax with text would tell of attention that training never pays."""
    with pytest.raises(BadValue, match=r"localise .* no attention to identity beside text"):
        made(tmp_path, "infinite_id", losses=LossSettings(localise=1.0))
