import pytest
import torch
from diffusers.models.attention_processor import Attention, IPAdapterAttnProcessor2_0

from infra.errors import BadValue
from tests.training.methods.adapters import drawn
from training.nets.merging import Merge, adain_mean, decoupled, merging, rescaled
from training.nets.presets import load_unet


def test_adain_mean_moves_the_mean_and_nothing_else():
    x = torch.tensor([[[1.0, 10.0], [3.0, 20.0]]])
    like = torch.tensor([[[0.0, 1.0], [0.0, 2.0], [6.0, 3.0]]])
    assert torch.equal(adain_mean(x, like), torch.tensor([[[1.0, -3.0], [3.0, 7.0]]]))
    assert torch.allclose(adain_mean(x, like).std(dim=1), x.std(dim=1))


def test_rescaled_states_have_the_other_s_norm_and_their_own_direction():
    x, like = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[0.0, 10.0]]])
    assert torch.allclose(rescaled(x, like), torch.tensor([[[6.0, 8.0]]]))


def test_one_sample_s_small_norm_changes_no_other():
    """The original adds 1e-6 to all norms as soon as one is below it."""
    x = torch.stack([1e-8 * drawn(3, 4), 1e-5 * drawn(3, 4, seed=1)])
    like = drawn(2, 3, 4, seed=2)
    assert torch.equal(rescaled(x, like)[1:], rescaled(x[1:], like[1:]))
    assert torch.equal(rescaled(torch.zeros_like(x), like), torch.zeros_like(x))


def test_squares_of_a_whole_layer_do_not_overflow_half_precision():
    x = torch.full((1, 4096, 4), 10.0, dtype=torch.float16)
    assert torch.allclose(rescaled(x, x), x)


def layer():
    torch.manual_seed(0)
    attn = Attention(8, cross_attention_dim=6, heads=2, dim_head=4)
    processor = IPAdapterAttnProcessor2_0(8, 6, num_tokens=[3], scale=0.7)
    return attn, processor, (drawn(2, 5, 6), [drawn(2, 1, 3, 6, seed=1)])


def test_without_a_merge_it_is_diffusers_own_attention():
    attn, processor, told = layer()
    states = drawn(2, 7, 8, seed=2)
    ours = decoupled(attn, processor, states, told, Merge())
    torch.testing.assert_close(ours, processor(attn, states, told))


@torch.no_grad()
def test_both_merges_are_what_their_papers_say():
    attn, processor, told = layer()
    states, text, tokens = drawn(2, 7, 8, seed=2), told[0], told[1][0][:, 0]

    def heads(x):
        return x.view(2, -1, 2, 4).transpose(1, 2)

    def attend(key, value):
        scores = heads(attn.to_q(states)) @ heads(key).transpose(2, 3) / 4**0.5
        return (scores.softmax(dim=3) @ heads(value)).transpose(1, 2).reshape(2, 7, 8)

    keys, values = attn.to_k(text), attn.to_v(text)
    worded = attend(keys, values)
    key, value = processor.to_k_ip[0](tokens), processor.to_v_ip[0](tokens)
    shown = attend(key, value)
    norms = [x.flatten(1).norm(dim=1)[:, None, None] for x in (worded, shown)]
    shifted = attend(key - key.mean(1, True) + keys.mean(1, True),
                     value - value.mean(1, True) + values.mean(1, True))  # fmt: skip
    for merge, added in (
        (Merge(rescale=True), shown * norms[0] / norms[1]),
        (Merge(adain_mean=True), shifted),
    ):
        expected = attn.to_out[0](worded + 0.7 * added)
        torch.testing.assert_close(decoupled(attn, processor, states, told, merge), expected)


def test_a_network_without_identity_of_its_own_is_refused():
    unet = load_unet("random:tiny-sd")
    with merging(unet, Merge()):
        pass
    for merge, key in ((Merge(rescale=True), "rescale"), (Merge(adain_mean=True), "adain_mean")):
        with pytest.raises(BadValue, match=f"sampling.{key}"), merging(unet, merge):
            pass
