import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from infra.errors import BadValue
from tests.training.methods.adapters import IMAGE, WIDTH, batch, drawn, moved
from tests.training.methods.test_research_adapters import BASES, KINDS, gradients, made
from training.exports import read_tensors
from training.methods.face_chain_fact import FILE
from training.nets.face_chain_fact import GatedFace
from training.nets.presets import load_unet
from training.settings import DropSettings, LossSettings, Scale

NAME = "face_chain_fact"
METHOD = KINDS[NAME][1]


@BASES
@torch.no_grad()
def test_a_new_adapter_is_its_base_bit_for_bit(tmp_path, base):
    method, given = made(tmp_path, NAME, base=base), batch()
    told = method._told(given)
    z_t, t = given["latents"], torch.tensor([10, 900])
    added = method._micro(z_t, told, None, torch.float32)
    theirs = load_unet(base)(z_t, t, told.text, added_cond_kwargs=added).sample
    assert torch.equal(method._predict(z_t, t, told, None), theirs)


@torch.no_grad()
def test_a_layer_is_the_original_s_processor():
    """face_attention_processor_v1.py of FaceChain, before it asks the text."""
    torch.manual_seed(0)
    layer = GatedFace(8, 6, heads=2)
    for name, weight in layer.named_parameters():
        weight.copy_(drawn(*weight.shape, seed=len(name)))
    layer.alpha_attn.fill_(0.3)
    layer.alpha_dense.fill_(-0.5)
    layer.scale = 0.7
    x, objs = drawn(2, 5, 8), drawn(2, 3, 6, seed=1)
    seen = layer.norm1(torch.cat([x, layer.linear(objs)], dim=1))

    def heads(states):
        return states.view(2, 8, 2, 4).permute(0, 2, 1, 3)

    query, key, value = (
        heads(f(seen)) for f in (layer.attn.to_q, layer.attn.to_k, layer.attn.to_v)
    )
    looked = ((query @ key.transpose(2, 3) * 4**-0.5).softmax(-1) @ value).transpose(1, 2)
    looked = layer.attn.to_out[0](looked.reshape(2, 8, 8))[:, :5]
    expected = x + 0.7 * torch.tanh(torch.tensor(0.3)) * looked
    states, gate = layer.ff.net[0].proj(layer.norm2(expected)).chunk(2, dim=-1)
    dense = layer.ff.net[2](states * nn.functional.gelu(gate))
    expected = expected + 0.7 * torch.tanh(torch.tensor(-0.5)) * dense
    torch.testing.assert_close(layer(x, objs), expected)


def test_the_file_has_the_original_s_names(tmp_path):
    made(tmp_path / "features", NAME).save(tmp_path / "export")
    held = read_tensors(tmp_path / "export" / FILE)
    blocks = {name.partition(".attn2.processor.")[0] for name in held if ".processor." in name}
    assert all(
        re.fullmatch(r"\w+(\.\d)?\.attentions\.\d\.transformer_blocks\.0", b) for b in blocks
    )
    own = {name.partition(".processor.")[2] for name in held if ".processor." in name}
    layers = ("linear", "norm1", "norm2", "attn.to_out.0", "ff.net.0.proj", "ff.net.2")
    assert own == {"alpha_attn", "alpha_dense"} | {f"attn.to_{which}.weight" for which in "qkv"} | {
        f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")
    }
    assert {w.shape for n, w in held.items() if "alpha" in n} == {()}
    resampler = {n.removeprefix("local_fac_prj."): w for n, w in held.items() if "local_fac" in n}
    assert {"latents", "proj_in.weight", "proj_out.bias", "norm_out.weight",
            "layers.3.0.to_kv.weight", "layers.0.1.3.weight"} <= resampler.keys()  # fmt: skip
    dim = WIDTH * 4 // 3
    assert resampler["latents"].shape == (1, 16, dim)
    assert resampler["proj_in.weight"].shape == (dim, IMAGE[1])
    assert resampler["layers.0.0.to_kv.weight"].shape == (2 * 64, dim)


@pytest.mark.parametrize(
    ("progress", "dropped"), [(0.0, 0), (0.1, 200), (0.25, 400), (0.5, 400), (1.0, 400)]
)
def test_drops_grow_to_their_shares(tmp_path, progress, dropped):
    method = made(
        tmp_path, NAME, method=replace(METHOD, curriculum=0.2),
        drop=DropSettings(identity=0.2, text=0.1, both=0.1),
    )  # fmt: skip
    told = []
    method.conditions.without = lambda given, *left_out: told.append(left_out) or given
    method._predict = lambda z_t, *_: z_t
    given = {name: value[:1].expand(1000, *value.shape[1:]) for name, value in batch().items()} | {
        "drop": torch.arange(1000) / 1000,
        "progress": torch.full((1000,), progress),
    }
    method(given)
    no_identity, no_text = told[0]
    assert (no_identity | no_text).sum().item() == pytest.approx(dropped, abs=1)
    assert no_identity.sum().item() == pytest.approx(0.75 * dropped, abs=1)
    assert no_text.sum().item() == pytest.approx(0.5 * dropped, abs=1)


def test_a_curriculum_without_progress_is_refused(tmp_path):
    method = made(tmp_path, NAME, method=replace(METHOD, curriculum=0.2))
    with pytest.raises(BadValue, match=r"method\.curriculum"):
        method(batch())
    with pytest.raises(BadValue, match=r"give a share, 0 to 1"):
        replace(METHOD, curriculum=1.5)


def test_fair_is_told_what_the_gated_layers_add(tmp_path):
    method, given = moved(made(tmp_path, NAME, losses=LossSettings(fair=0.5))), batch()
    given["mask"] = torch.zeros(2, 16, 16)
    told = {}
    shown = method._shown
    method._shown = lambda *args: told.update(shown(*args)) or told
    losses = method(given)
    assert set(told["residuals"]) == {f"{name}.attn2" for name in method.adapter.blocks}
    added, stream = told["residuals"]["mid_block.attentions.0.transformer_blocks.0.attn2"]
    gate = method.adapter.blocks["mid_block.attentions.0.transformer_blocks.0"].fuser
    objs = method.tokens(method._told(given).faces)
    torch.testing.assert_close(stream + added, gate(stream, objs), rtol=1e-4, atol=1e-5)
    assert losses["fair"] > 0
    assert method(given | {"mask": torch.ones(2, 16, 16)})["fair"] == 0


def test_fair_has_the_same_gradient_where_layers_are_computed_again(tmp_path):
    given = batch()
    given["mask"][:, :8] = 0
    plain, again = (
        gradients(
            moved(
                made(tmp_path, NAME, losses=LossSettings(fair=1.0),
                     scale=Scale(gradient_checkpointing=again))
            ).train(), given,
        )
        for again in (False, True)
    )  # fmt: skip
    for name in plain:
        torch.testing.assert_close(plain[name], again[name], rtol=1e-3, atol=1e-4)
