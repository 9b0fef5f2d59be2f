from pathlib import Path

import pytest
import torch

from infra.errors import BadWeights
from training.nets.faceid_layout import (
    adopt,
    alternates,
    companion,
    nested,
    publish,
    published_names,
)

LAYER = "mid_block.attentions.0.transformer_blocks.0"
ATTENTION = (f"{LAYER}.attn1.processor", f"{LAYER}.attn2.processor")


def weights(*, lora, plus=False):
    names = published_names(ATTENTION, lora=lora, plus=plus)
    return {name: torch.full((2, 3), float(i)) for i, name in enumerate(names)}


def test_keys_and_values_are_numbered_by_their_attention_layer():
    names = published_names(ATTENTION, lora=False)
    assert names[f"{LAYER}.attn2.processor.to_k_ip.0.weight"] == "ip_adapter.1.to_k_ip.weight"
    assert set(names.values()) == {
        *(f"image_proj.{part}.{kind}" for part in ("proj.0", "proj.2", "norm") for kind in
          ("weight", "bias")),
        "ip_adapter.1.to_k_ip.weight",
        "ip_adapter.1.to_v_ip.weight",
    }  # fmt: skip


def test_lora_is_published_for_self_attention_too():
    names = published_names(ATTENTION, lora=True)
    assert (
        names[f"{LAYER}.attn1.to_out.0.lora_B.faceid.weight"]
        == "ip_adapter.0.to_out_lora.up.weight"
    )
    assert len(names) == 6 + 2 + 2 * 4 * 2
    assert len(set(names.values())) == len(names)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("plus", [False, True])
def test_what_is_published_is_adopted_back(lora, plus):
    ours = weights(lora=lora, plus=plus)
    back = adopt(publish(ours, ATTENTION), ours, ATTENTION, Path("x.safetensors"))
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], ours[name]) for name in ours)


def test_a_perceiver_is_published_with_its_keys_and_values_in_one():
    ours = weights(lora=False, plus=True)
    published = publish(ours, ATTENTION)
    block = "image_proj.perceiver_resampler.layers.2"
    mine = "encoder_hid_proj.image_projection_layers.0.layers.2.attn"
    assert torch.equal(
        published[f"{block}.0.to_kv.weight"],
        torch.cat([ours[f"{mine}.to_k.weight"], ours[f"{mine}.to_v.weight"]]),
    )
    assert not any("to_k.weight" in name for name in published)
    for name in ("0.norm1.bias", "0.norm2.weight", "1.0.bias", "1.1.weight", "1.3.weight"):
        assert f"{block}.{name}" in published


def test_the_companion_holds_the_lora_with_its_rank_as_alpha():
    renamed = companion(weights(lora=True), ATTENTION)
    name = f"lora_unet_{LAYER.replace('.', '_')}_attn2_to_out_0"
    assert renamed[f"{name}.alpha"].item() == 2  # rows of lora_A
    assert f"{name}.lora_up.weight" in renamed
    assert len(renamed) == 2 * 4 * 3


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda held: held.pop("image_proj.norm.bias"), "lacks the weight 'image_proj.norm.bias'"),
        (lambda held: held.update({"text.x": torch.ones(1)}), "unknown weight 'text.x'"),
        (
            lambda held: held.update({"image_proj.norm.bias": torch.ones(7)}),
            r"'image_proj.norm.bias' of shape \(7,\), and the model \(2, 3\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, why):
    ours = weights(lora=False)
    published = publish(ours, ATTENTION)
    change(published)
    with pytest.raises(BadWeights, match=why):
        adopt(published, ours, ATTENTION, Path("x.safetensors"))


def test_parts_are_divided_at_the_first_dot():
    held = torch.ones(1)
    assert nested({"image_proj.norm.bias": held, "ip_adapter.1.to_k_ip.weight": held}) == {
        "image_proj": {"norm.bias": held},
        "ip_adapter": {"1.to_k_ip.weight": held},
    }


@pytest.mark.parametrize("attention", [(), ATTENTION[1:], ("mid_block.attentions.0.processor",)])
def test_a_base_whose_attentions_do_not_take_turns_is_recognised(attention):
    assert alternates(ATTENTION)
    assert not alternates(attention)
