"""ConsisID's transformer against diffusers' own, and against the base that it grew out of."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
from diffusers.models.transformers.consisid_transformer_3d import ConsisIDTransformer3DModel

from infra.errors import BadValue, BadWeights
from tests.training.videos import BASES, COGVIDEOX, WITH_PICTURE, features
from training.nets.consis_id import ADDED, is_consis_id, lightened, load_consis_id
from training.nets.video_base import ask
from training.nets.video_presets import TRANSFORMERS, load_video_network
from training.settings import BaseModelSettings

TOLD = features(WITH_PICTURE)
AS_PUBLISHED = replace(
    TOLD, identity_dim=512, face_pooled_dim=768, face_states_shape=(5, 577, 1024)
)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def grown():
    """A network whose cross-attentions say something, as after training."""
    network = load_consis_id(BASES[WITH_PICTURE], TOLD)
    for n, attention in enumerate(network.perceiver_cross_attention):
        attention.to_out.weight.data = 0.1 * drawn(*attention.to_out.weight.shape, seed=n)
    return network


def given(frames=3):
    """Latents, times, text and a face."""
    layers, tokens, wide = TOLD.face_states_shape
    more = {
        "id_cond": drawn(2, TOLD.identity_dim + TOLD.face_pooled_dim, seed=3),
        "id_vit_hidden": list(drawn(2, layers, tokens, wide, seed=4).unbind(1)),
    }
    z_t, beside = drawn(2, 4, frames, 8, 8), drawn(2, 4, frames, 8, 8, seed=1)
    return (z_t, torch.tensor([600, 3]), drawn(2, 16, 32, seed=2)), {"beside": beside, "more": more}


def gradients(network):
    network.zero_grad()
    asked, told = given()
    ask(network, *asked, **told).square().mean().backward()
    return {name: weight.grad for name, weight in network.named_parameters()}


def test_it_predicts_what_diffusers_own_module_does():
    network = grown()
    theirs = ConsisIDTransformer3DModel.from_config(network.config).eval()
    assert type(theirs.perceiver_cross_attention[0]) is not type(
        network.perceiver_cross_attention[0]
    )
    theirs.load_state_dict(network.state_dict())
    asked, told = given()
    with torch.no_grad():
        ours, wanted = ask(network, *asked, **told), ask(theirs, *asked, **told)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
    by_them, by_us = gradients(theirs), gradients(network)
    for name, gradient in by_them.items():
        torch.testing.assert_close(by_us[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_checkpointing_changes_no_gradient_and_reaches_what_was_added():
    network = grown()
    before = gradients(network)
    network.enable_gradient_checkpointing()
    for module in (network.local_facial_extractor, *network.perceiver_cross_attention):
        assert module.gradient_checkpointing
    after = gradients(network)
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


@contextmanager
def kept():
    """Count the bytes that a forward keeps for its backward."""
    held: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield held


def test_checkpointing_what_was_added_keeps_less_than_diffusers_does():
    network = grown()
    theirs = ConsisIDTransformer3DModel.from_config(network.config).eval()
    sums, alive = [], []
    for each in (theirs, network):
        each.enable_gradient_checkpointing()
        asked, told = given()
        with kept() as held:
            alive.append(ask(each, *asked, **told))
        sums.append(sum(held.values()))
    assert sums[1] < 0.8 * sums[0]


def test_as_it_begins_it_is_its_base_shown_the_same_picture():
    network, base = load_consis_id(BASES[WITH_PICTURE], TOLD), load_video_network(
        BASES[WITH_PICTURE]
    )  # fmt: skip
    asked, told = given()
    with torch.no_grad():
        assert torch.equal(ask(network, *asked, **told), ask(base, *asked, beside=told["beside"]))


@pytest.mark.parametrize("scale", [0.0, torch.zeros(2, 1, 1)])
def test_without_cross_attention_it_is_its_base_bit_for_bit(scale):
    network, base = grown(), load_video_network(BASES[WITH_PICTURE])
    asked, told = given()
    with torch.no_grad():
        on = ask(network, *asked, **told)
        network.local_face_scale = scale
        off, wanted = ask(network, *asked, **told), ask(base, *asked, beside=told["beside"])
    assert torch.equal(off, wanted)
    assert not torch.equal(on, wanted)


def test_it_is_as_large_as_published():
    base = BaseModelSettings(weights="random:cogvideox-5b-i2v")
    with torch.device("meta"):
        network = load_consis_id(base, AS_PUBLISHED)

    def millions(module):
        return sum(weight.numel() for weight in module.parameters()) / 1e6

    assert millions(network) == pytest.approx(6162, abs=1)
    assert millions(network.local_facial_extractor) == pytest.approx(151.4, abs=0.1)
    assert millions(network.perceiver_cross_attention) == pytest.approx(440.6, abs=0.1)
    assert len(network.perceiver_cross_attention) == 21
    assert network.config.LFE_output_dim == 2048


def test_a_folder_of_consisid_is_taken_as_it_is_and_one_of_its_base_grows(tmp_path):
    network, base = grown(), load_video_network(BASES[WITH_PICTURE])
    network.save_pretrained(tmp_path / "whole/transformer")
    base.save_pretrained(tmp_path / "base/transformer")
    for folder, trained in (("whole", network), ("base", base)):
        reference = f"file:{tmp_path / folder}"
        assert is_consis_id(reference) is (folder == "whole")
        again = load_consis_id(replace(BASES[WITH_PICTURE], weights=reference), TOLD_LIKE[folder])
        held = again.state_dict()
        assert all(torch.equal(held[name], w) for name, w in trained.state_dict().items())
    new = [name for name in again.state_dict() if name.startswith(ADDED)]
    assert len(again.state_dict()) == len(base.state_dict()) + len(new)


TOLD_LIKE = {"whole": TOLD, "base": replace(TOLD, face_states_shape=(3, 5, 128))}
"""What grows out of a folder has the published number of heads, whose width is of no matter."""


def test_what_cannot_become_consisid_is_refused_by_name(tmp_path):
    with pytest.raises(BadValue, match="takes one \\(I2V\\)"):
        load_consis_id(BASES[COGVIDEOX], TOLD)
    with pytest.raises(BadValue, match="prepare the videos with a face encoder"):
        load_consis_id(BASES[WITH_PICTURE], replace(TOLD, face_states_shape=(0, 0, 0)))
    grown().save_pretrained(tmp_path / "transformer")
    there = replace(BASES[WITH_PICTURE], weights=f"file:{tmp_path}")
    with pytest.raises(BadValue, match="reads 3 layers of states of width 24 and 28 numbers"):
        load_consis_id(there, replace(TOLD, identity_dim=128))
    path = tmp_path / "transformer/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"is_kps": True}))
    with pytest.raises(BadValue, match="no drawing of their key points"):
        load_consis_id(there, TOLD)
    (tmp_path / "transformer/diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(BadWeights, match="cannot be read"):
        load_consis_id(there, TOLD)


def test_another_version_of_the_base_is_refused(tmp_path):
    settings = TRANSFORMERS["tiny-cogvideox-i2v"] | {"ofs_embed_dim": 16}
    CogVideoXTransformer3DModel.from_config(settings).save_pretrained(tmp_path / "transformer")
    with pytest.raises(BadValue, match=r"this is CogVideoX 1\.5"):
        load_consis_id(replace(BASES[WITH_PICTURE], weights=f"file:{tmp_path}"), TOLD)


def test_making_it_lighter_twice_changes_nothing():
    network = grown()
    classes = [type(module) for module in network.modules()]
    assert [type(module) for module in lightened(network).modules()] == classes
