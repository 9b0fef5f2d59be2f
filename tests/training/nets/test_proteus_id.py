"""Proteus-ID's parts compute, by their published names, what the original's do."""

from dataclasses import replace

import torch
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.transformers.consisid_transformer_3d import (
    ConsisIDTransformer3DModel,
    PerceiverAttention,
    PerceiverCrossAttention,
)
from torch import nn
from torch.nn import functional

from tests.training.videos import COGVIDEOX, features
from training.nets.proteus_fusion import Fusion, Sizes
from training.nets.proteus_id import ADDED, grown
from training.nets.proteus_injection import Attending, Injection
from training.nets.references import seeded
from training.nets.video_base import ask, rotary
from training.nets.video_presets import load_video_network
from training.settings import BaseModelSettings

SIZES = Sizes(
    text=32, face=10, states=16, layers=3, inner=24, tokens=4, blocks=2, fuse_head=8, query=24,
    query_heads=2, query_blocks=2,
)  # fmt: skip
OUT = 12


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WORDS, FACE, STATES = drawn(2, 6, 32), drawn(2, 10, seed=1), drawn(2, 3, 5, 16, seed=2)


def stirred(module):
    """Draw all weights anew: some begin as zeros."""
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=rng))
    return module


def mlp(held, name, given):
    for layer in (0, 3):
        given = norm(held, f"{name}.{layer + 1}", linear(held, f"{name}.{layer}", given))
        given = functional.leaky_relu(given)
    return linear(held, f"{name}.6", given)


def linear(held, name, given):
    return functional.linear(given, held[f"{name}.weight"], held.get(f"{name}.bias"))


def norm(held, name, given):
    return functional.layer_norm(
        given, given.shape[-1:], held[f"{name}.weight"], held[f"{name}.bias"]
    )


def loaded(module, held, prefix):
    own = {name: held[f"{prefix}.{name}"] for name in module.state_dict()}
    module.load_state_dict(own)
    return module


def test_attention_by_torch_s_names_is_torch_s():
    theirs = nn.MultiheadAttention(24, 3, batch_first=True)
    ours = Attending(24, 3)
    ours.load_state_dict(theirs.state_dict())
    asking, seen = drawn(2, 4, 24), drawn(2, 7, 24, seed=1)
    expected, _ = theirs(asking, seen, seen, need_weights=False)
    torch.testing.assert_close(ours(asking, seen), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_fusion_is_the_original_s():
    ours = stirred(Fusion(SIZES))
    held = ours.state_dict()
    told = torch.cat([held["latents"].expand(2, -1, -1), WORDS], dim=1)
    known = mlp(held, "img_embedding_mapping", FACE[:, None])
    for block in range(6):
        layer, name = block // 2, f"layers.{block}"
        normed = norm(held, f"{name}.0.norm", told)
        asked = [linear(held, f"{name}.0.{to}", normed) for to in ("to_q", "to_k", "to_v")]
        heads = [each.unflatten(2, (4, 8)).transpose(1, 2) for each in asked]
        shares = (heads[0] @ heads[1].mT / 8**0.5).softmax(dim=-1)
        told = told + linear(
            held, f"{name}.0.to_out", (shares @ heads[2]).transpose(1, 2).flatten(2)
        )
        seen = torch.cat([known, mlp(held, f"mapping_{layer}", STATES[:, layer])], dim=1)
        looking = loaded(PerceiverAttention(32, dim_head=8, heads=4), held, f"{name}.1")
        told = told + looking(seen, told)
        inner = functional.gelu(linear(held, f"{name}.2.1", norm(held, f"{name}.2.0", told)))
        told = told + linear(held, f"{name}.2.3", inner)
    expected = told[:, :4] @ held["proj_out"]
    torch.testing.assert_close(ours(WORDS, FACE, STATES), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_injection_is_the_original_s():
    ours, t, tokens = (
        stirred(Injection(SIZES, OUT)),
        torch.tensor([3, 700]),
        drawn(2, 4, 32, seed=4),
    )
    held = ours.state_dict()
    waves = get_timestep_embedding(t, 24, flip_sin_to_cos=True, downscale_freq_shift=0)
    time = functional.silu(linear(held, "time_embedding.linear_1", waves))
    time = functional.silu(linear(held, "time_embedding.linear_2", time))[:, None]
    known = mlp(held, "fuse_face_feature.clip_embedding_mapping", FACE[:, None])
    seen = torch.cat([known, STATES[:, -1]], dim=1)
    seen = mlp(held, "fuse_face_feature.vit_embedding_mapping", seen)
    seen, told = (
        linear(held, "connector.proj_img", seen),
        linear(held, "connector.proj_fuse", tokens),
    )
    queries = held["connector.latents"] + linear(held, "connector.time_aware_linear", time)

    def timed(name, given):
        shift, scale = linear(held, f"{name}.linear", time).chunk(2, dim=2)
        return functional.layer_norm(given, (24,), eps=1e-6) * (1 + scale) + shift

    def looked(name, asking, given):
        attention = nn.MultiheadAttention(24, 2, batch_first=True)
        around = torch.cat([asking, given], dim=1)
        return loaded(attention, held, name)(asking, around, around)[0]

    for block in range(2):
        name = f"connector.perceiver_blocks.{block}"
        asking = timed(f"{name}.ln_1", queries)
        queries = queries + looked(f"{name}.attn_fuse", asking, timed(f"{name}.ln_fuse", told))
        asking = timed(f"{name}.ln_2", queries)
        queries = queries + looked(f"{name}.attn_img", asking, timed(f"{name}.ln_img", seen))
        inner = linear(held, f"{name}.mlp.c_fc", timed(f"{name}.ln_ff", queries)).relu().square()
        queries = queries + linear(held, f"{name}.mlp.c_proj", inner)
    expected = norm(held, "connector.proj_out.1", linear(held, "connector.proj_out.0", queries))
    torch.testing.assert_close(ours(tokens, FACE, STATES, t), expected, atol=1e-4, rtol=1e-4)


def test_what_is_injected_depends_on_the_time():
    ours, tokens = seeded(lambda: Injection(SIZES, OUT), 0), drawn(2, 4, 32)
    early, late = (ours(tokens, FACE, STATES, torch.tensor([t, t])) for t in (900, 100))
    assert (early - late).abs().max() > 0.1


@torch.no_grad()
def test_between_the_blocks_it_adds_what_consis_id_s_transformer_does():
    """The forward of diffusers, its own cross-attention in it, told the same tokens."""
    told, weights = features(COGVIDEOX), BaseModelSettings(weights=COGVIDEOX)
    ours = stirred(grown(load_video_network(weights), told)).eval()
    theirs = ConsisIDTransformer3DModel.from_config(dict(ours.config)).eval()
    theirs.is_train_face, theirs.cross_attn_interval, theirs.local_face_scale = True, 2, 0.7
    theirs.local_facial_extractor = Told()
    attention = PerceiverCrossAttention(32, dim_head=8, heads=2, kv_dim=21)
    theirs.perceiver_cross_attention = nn.ModuleList([attention])
    theirs.load_state_dict({n: w for n, w in ours.state_dict().items() if n in theirs.state_dict()})
    z_t, t, text = drawn(2, 4, 3, 8, 8), torch.tensor([20, 800]), drawn(2, 16, 32, seed=5)
    person = {"words": drawn(2, 16, 32, seed=6), "face": drawn(2, 28, seed=7),
              "states": drawn(2, *told.face_states_shape, seed=8)}  # fmt: skip
    tokens = ours.fuse_token_adapter(ours.fuse_token_former(*person.values()))
    injected = ours.fuse_facital_attention(tokens, person["face"], person["states"], t)
    ours.strength = 0.7
    expected = theirs(
        z_t.transpose(1, 2), torch.cat([0.7 * tokens, text[:, :-4]], dim=1), t,
        id_cond=injected, id_vit_hidden=[], return_dict=False,
        image_rotary_emb=rotary(ours, 3, 8, 8, z_t.device),
    )[0].transpose(1, 2)  # fmt: skip
    found = ask(ours, z_t, t, text, more=person)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


class Told(nn.Module):
    def forward(self, tokens, _):
        return tokens


def test_it_is_as_large_as_published():
    """Of the third part the original also holds queries and projections that nothing reads."""
    told = replace(
        features(COGVIDEOX), identity_dim=512, face_pooled_dim=768,
        face_states_shape=(5, 577, 1024), text_shape=(226, 4096),
    )  # fmt: skip
    weights = BaseModelSettings(weights="random:cogvideox-5b-i2v")
    with torch.device("meta"):
        network = grown(load_video_network(weights), told)
        unread = nn.Linear(2048, 2048), nn.LayerNorm(2048), nn.Embedding(32, 2048)
    unread_m = sum(w.numel() for part in unread for w in part.parameters()) / 1e6
    sizes = [
        sum(w.numel() for n, w in network.named_parameters() if n.startswith(part)) / 1e6
        for part in ADDED
    ]
    sizes[2] += unread_m
    assert [round(size, 1) for size in sizes] == [1733.0, 50.4, 966.6, 440.6]
    assert len(network.perceiver_cross_attention) == 21
