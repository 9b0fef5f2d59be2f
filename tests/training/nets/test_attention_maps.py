import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from tests.training.methods.adapters import DIM, SDXL, TOKENS, WIDTH, drawn
from training.nets.attention_maps import as_picture, cross_attention, watched
from training.nets.faceid import FaceIDAdapter
from training.nets.presets import UNETS, load_unet

FINEST = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"


def plain():
    return load_unet("random:tiny-sd").eval().requires_grad_(False)


def with_identity(lora_rank=4):
    unet = plain()
    FaceIDAdapter(
        unet, "random:tiny-sd", identity_dim=DIM, tokens=4, lora_rank=lora_rank, seed=0
    )  # fmt: skip
    with torch.no_grad():
        for weight in unet.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn(
                    weight.shape, generator=torch.Generator().manual_seed(1)
                )
    return unet


def asked(unet, **how):
    if unet.encoder_hid_proj is not None:
        how["added_cond_kwargs"] = {"image_embeds": [drawn(2, 1, DIM, seed=2)]}
    z_t, t = drawn(2, 4, 16, 16), torch.tensor([10, 600])
    return unet(z_t, t, drawn(2, TOKENS, WIDTH, seed=1), **how).sample


@pytest.mark.parametrize("make", [plain, with_identity])
def test_a_watched_call_is_the_same_call_bit_for_bit(make):
    unet = make()
    before = asked(unet)
    with watched(unet, cross_attention(unet)) as seen:
        during = asked(unet)
    assert during.equal(before)
    assert asked(unet).equal(before)
    assert len(seen.told) == len(unet.attn_processors) // 2
    assert not any(module._forward_pre_hooks for module in unet.modules())


def test_text_has_the_probabilities_that_a_plain_processor_computes(monkeypatch):
    unet, computed = plain(), []
    real = Attention.get_attention_scores
    monkeypatch.setattr(
        Attention,
        "get_attention_scores",
        lambda *args: computed.append(real(*args)) or computed[-1],
    )
    unet.set_attn_processor(AttnProcessor())
    with watched(unet, [FINEST]) as seen:
        asked(unet)
    by_heads = next(each for each in computed if each.shape[2] == TOKENS)  # the first of attn2
    shares = seen.told[FINEST].of_text()
    torch.testing.assert_close(shares, by_heads.view(2, -1, *by_heads.shape[1:]).mean(dim=1))
    torch.testing.assert_close(shares.sum(dim=2), torch.ones(shares.shape[:2]))


def test_identity_shares_one_softmax_with_text_and_so_is_somewhere_more_than_elsewhere():
    unet = with_identity()
    with watched(unet, [FINEST]) as seen:
        asked(unet)
    told = seen.told[FINEST]
    layer, states = told.layer, told.states
    keys = torch.cat([layer.to_k(told.text), layer.processor.to_k_ip[0](told.tokens)], dim=1)
    heads = [part.chunk(layer.heads, dim=2) for part in (layer.to_q(states), keys)]
    by_hand = torch.stack([
        torch.softmax(q @ k.mT / q.shape[2] ** 0.5, dim=2)[..., TOKENS:]
        for q, k in zip(*heads, strict=True)
    ]).mean(dim=0)  # fmt: skip
    torch.testing.assert_close(told.of_identity(), by_hand)
    whole = told.of_identity().sum(dim=-1)
    assert 0 < whole.min() < whole.max() < 1


def test_what_identity_adds_is_the_output_with_it_less_the_output_without():
    unet = with_identity()
    with watched(unet, [FINEST]) as seen:
        asked(unet)
    told = seen.told[FINEST]
    layer, given = told.layer, (told.text, [told.tokens])
    with_it = layer(told.states, encoder_hidden_states=given)
    layer.processor.scale = [0.0]
    without = layer(told.states, encoder_hidden_states=given)
    torch.testing.assert_close(told.added(), with_it - without, atol=1e-5, rtol=1e-4)
    norm = unet.get_submodule(FINEST.replace("attn2", "norm2"))
    torch.testing.assert_close(norm(told.stream), told.states)


@pytest.mark.parametrize("what", ["of_identity", "added"])
def test_gradients_are_the_same_under_gradient_checkpointing(what):
    found = []
    for checkpointed in (False, True):
        unet = with_identity().train()
        if checkpointed:
            unet.enable_gradient_checkpointing()
        with watched(unet, cross_attention(unet)) as seen:
            pred = asked(unet)
        loss = pred.square().mean()
        for told in seen.told.values():
            loss = loss + getattr(told, what)().square().mean()
        loss.backward()
        found.append({n: w.grad for n, w in unet.named_parameters() if w.requires_grad})
    assert found[0].keys() == found[1].keys()
    assert all(grad is not None for grad in found[0].values())
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("preset", "stages"),
    [
        ("sd15", {"down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.1", "up_blocks.2"}),
        ("sdxl", {"down_blocks.2", "mid_block", "up_blocks.0"}),
        ("tiny-sd", {"down_blocks.1", "mid_block", "up_blocks.0"}),
    ],
)
def test_coarse_layers_are_of_all_stages_but_the_outermost(preset, stages):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[preset])
    found = cross_attention(unet, coarse=True)
    named = {name.split(".attentions")[0] for name in found}
    assert named == stages
    assert all(name.endswith("attn2") for name in found)  # cross-attention: not attn1
    assert len(cross_attention(unet)) == len(unet.attn_processors) // 2


def test_a_unet_with_few_stages_keeps_them_all():
    assert cross_attention(load_unet(SDXL), coarse=True)


@pytest.mark.parametrize(("pixels", "sides"), [(256, (16, 16)), (20, (5, 4)), (6, (3, 2))])
def test_pixels_of_a_layer_find_their_places(pixels, sides):
    rows, columns = (16, 16) if pixels == 256 else (9, 8)
    found = as_picture(torch.arange(float(pixels))[None], rows, columns)
    assert found.shape == (1, *sides)
    assert found[0, 1, 0] == sides[1]
