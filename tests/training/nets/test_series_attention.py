from math import log, sqrt

import pytest
import torch
from diffusers.models.attention_processor import Attention, IPAdapterAttnProcessor2_0

from tests.training.methods.adapters import SD, SDXL, WIDTH, drawn
from training.nets.attention_maps import cross_attention
from training.nets.merging import Merge, decoupled, plain
from training.nets.presets import load_unet
from training.nets.series_attention import SubjectAgain, subject_again

NEGATIVE, ASKED = 0, 1
"""Branches of a call, one row each where there is one sample."""


def simple():
    """A layer of one head that computes with what it is told, as it is."""
    attn = Attention(2, cross_attention_dim=2, heads=1, dim_head=2)
    with torch.no_grad():
        for each in (attn.to_q, attn.to_k, attn.to_v, attn.to_out[0]):
            each.weight.copy_(torch.eye(2))
        attn.to_out[0].bias.zero_()
    return attn


@torch.no_grad()
def test_attention_is_what_the_paper_says_by_hand():
    """Queries (sqrt 2, 0), so a token of (log w, v) weighs w and says it."""
    states = torch.tensor([[[sqrt(2), 0.0]]]).expand(2, 1, 2)
    text = torch.tensor([[[log(1), 10.0], [log(3), 20.0]]]).expand(2, 2, 2)
    subject = torch.tensor([[[log(4), 50.0]]])
    out = SubjectAgain(plain, subject, 2)(simple(), states, text)
    assert out[ASKED, 0, 1].item() == pytest.approx((1 * 10 + 3 * 20 + 4 * 50) / 8)
    assert out[NEGATIVE, 0, 1].item() == pytest.approx((1 * 10 + 3 * 20) / 4)


@torch.no_grad()
def test_what_is_hidden_is_as_if_masked():
    """The original's code adds log(0) to the scores of all but the start mark and the subject."""
    attn = Attention(8, cross_attention_dim=6, heads=2, dim_head=4)
    states, text, first = drawn(2, 5, 8), drawn(2, 7, 6, seed=1), drawn(1, 7, 6, seed=2)
    shown = torch.tensor([1.0] * 7 + [1, 1, 1] + [0] * 4)

    def heads(x):
        return x.view(len(x), -1, 2, 4).transpose(1, 2)

    both = torch.cat([text[ASKED:], first], dim=1)
    scores = heads(attn.to_q(states[ASKED:])) @ heads(attn.to_k(both)).transpose(2, 3) / 4**0.5
    shares = (scores + shown.log()).softmax(dim=3)
    expected = attn.to_out[0]((shares @ heads(attn.to_v(both))).transpose(1, 2).flatten(2))
    out = SubjectAgain(plain, first[:, :3], 2)(attn, states, text)
    torch.testing.assert_close(out[ASKED:], expected)


@torch.no_grad()
def test_tokens_that_the_text_has_too_count_twice():
    attn = Attention(8, cross_attention_dim=6, heads=2, dim_head=4)
    states, text = drawn(2, 5, 8), drawn(2, 7, 6, seed=1)
    out = SubjectAgain(plain, text[ASKED:], 2)(attn, states, text)
    torch.testing.assert_close(out, plain(attn, states, text))


@torch.no_grad()
@pytest.mark.parametrize("merge", [Merge(), Merge(rescale=True), Merge(adain_mean=True)])
def test_identity_s_own_keys_and_values_are_as_they_were(merge):
    attn = Attention(8, cross_attention_dim=6, heads=2, dim_head=4)
    processor = IPAdapterAttnProcessor2_0(8, 6, num_tokens=[3], scale=0.7)
    states, text, tokens = drawn(6, 5, 8), drawn(6, 7, 6, seed=1), drawn(6, 1, 3, 6, seed=2)
    subject = drawn(2, 4, 6, seed=3)

    def merged(attn, states, told, _=None):
        return decoupled(attn, processor, states, told, merge)

    out = SubjectAgain(merged, subject, 3)(attn, states, (text, [tokens]))
    longer = torch.cat([text[2:], subject.repeat(2, 1, 1)], dim=1)
    torch.testing.assert_close(out[:2], merged(attn, states[:2], (text[:2], [tokens[:2]])))
    torch.testing.assert_close(out[2:], merged(attn, states[2:], (longer, [tokens[2:]])))


@torch.no_grad()
def test_branches_that_are_asked_for_twice_keep_their_places():
    """As by Infinite-ID, whose two streams are one call."""
    attn = Attention(8, cross_attention_dim=6, heads=2, dim_head=4)
    states, text, subject = drawn(8, 5, 8), drawn(8, 7, 6, seed=1), drawn(2, 4, 6, seed=3)
    out = SubjectAgain(plain, subject, 2)(attn, states, text)
    for rows in (slice(0, 4), slice(4, 8)):
        once = SubjectAgain(plain, subject, 2)(attn, states[rows], text[rows])
        torch.testing.assert_close(out[rows], once)


@torch.no_grad()
@pytest.mark.parametrize("base", [SD, SDXL])
def test_in_each_cross_attention_two_pictures_look_at_the_same_subject(base):
    unet = load_unet(base)
    seen = []

    class Looking:
        def __call__(self, attn, states, told, mask=None):
            seen.append((attn, states, told))
            return plain(attn, states, told, mask)

    layers = [unet.get_submodule(name) for name in cross_attention(unet)]
    for layer in layers:
        layer.set_processor(Looking())
    pooled = unet.config.addition_embed_type == "text_time"
    added = {"text_embeds": drawn(4, 32), "time_ids": torch.ones(4, 6)} if pooled else None
    subject = drawn(1, 3, WIDTH, seed=1).expand(2, -1, -1)
    with subject_again(unet, subject, 2):
        text = drawn(4, 5, WIDTH, seed=2)
        unet(drawn(4, 4, 16, 16, seed=3), 500, text, added_cond_kwargs=added)
    assert {attn for attn, _, _ in seen} == set(layers)
    assert len(seen) == 2 * len(layers)
    assert all(told.shape[1] == 5 for _, _, told in seen[::2]), "the negative branch's own prompt"
    for attn, states, told in seen[1::2]:
        key = attn.to_k(told).view(2, 8, attn.heads, -1).transpose(1, 2)
        assert torch.equal(key[0, :, -3:], key[1, :, -3:])
        query = attn.to_q(states).view(2, -1, attn.heads, key.shape[-1]).transpose(1, 2)
        mass = (query @ key.transpose(2, 3) * attn.scale).softmax(dim=3)[..., -3:].sum(dim=3)
        assert ((mass > 0) & (mass < 1)).all()
    assert all(isinstance(layer.processor, Looking) for layer in layers), "put back"


def test_processors_are_put_back_after_an_error_too():
    unet = load_unet(SD)
    before = unet.attn_processors
    with pytest.raises(RuntimeError), subject_again(unet, drawn(1, 3, WIDTH + 1), 2):
        unet(drawn(2, 4, 16, 16), 500, drawn(2, 5, WIDTH))
    assert unet.attn_processors == before
