"""InstantID's parts, their published names, and their true sizes."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from infra.errors import BadValue, BadWeights
from training.nets.instant_id import InstantIDAdapter
from training.nets.presets import UNETS, load_unet

PATH = Path("x.safetensors")


def adapter(base="random:tiny-sd", **more):
    how = {"identity_dim": 32, "tokens": 16, "latent_px": 4, "seed": 0} | more
    return InstantIDAdapter(load_unet(base), base, **how)


class PerceiverAttention(nn.Module):
    """The original's layer, with the names of its weights."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_q, self.to_kv, self.to_out = (
            nn.Linear(dim, n * heads * 64, bias=False) for n in (1, 2, 1)
        )

    def forward(self, x, latents):
        x, latents = self.norm1(x), self.norm2(latents)
        query = self.to_q(latents)
        key, value = self.to_kv(torch.cat([x, latents], dim=1)).chunk(2, dim=2)
        query, key, value = (
            part.unflatten(2, (self.heads, 64)).transpose(1, 2) for part in (query, key, value)
        )
        seen = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.to_out(seen.transpose(1, 2).flatten(2))


class Resampler(nn.Module):
    """InstantID's Resampler as it was published, where ``ip-adapter.bin`` is loaded strictly."""

    def __init__(self, dim, heads, depth, queries, embedding_dim, output_dim):
        super().__init__()
        self.latents = nn.Parameter(torch.empty(1, queries, dim))
        self.proj_in, self.proj_out = nn.Linear(embedding_dim, dim), nn.Linear(dim, output_dim)
        self.norm_out = nn.LayerNorm(output_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([
                PerceiverAttention(dim, heads),
                nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim, bias=False), nn.GELU(),
                              nn.Linear(4 * dim, dim, bias=False)),
            ]) for _ in range(depth)
        )  # fmt: skip

    def forward(self, x):
        latents, x = self.latents.repeat(len(x), 1, 1), self.proj_in(x)
        for attention, feed in self.layers:
            latents = attention(x, latents) + latents
            latents = feed(latents) + latents
        return self.norm_out(self.proj_out(latents))


@torch.no_grad()
def test_the_published_resampler_takes_our_weights_and_makes_our_tokens():
    ours = adapter()
    parts = {n.partition(".")[2]: w for n, w in ours.publish().items() if "image_proj" in n}
    theirs = Resampler(dim=64, heads=1, depth=4, queries=16, embedding_dim=32, output_dim=32)
    theirs.load_state_dict(parts, strict=True)
    vectors = 20 * torch.randn(3, 1, 32, generator=torch.Generator().manual_seed(0))
    tokens = ours.resampler(vectors)
    assert tokens.shape == (3, 16, 32)
    assert torch.allclose(theirs(vectors), tokens, atol=1e-5)


def test_a_list_of_the_unet_s_processors_takes_the_published_keys_and_values():
    """The community pipeline numbers attention layers by their place among all processors."""
    ours = adapter()
    published = {n: w for n, w in ours.publish().items() if n.startswith("ip_adapter.")}
    numbers = sorted({int(name.split(".")[1]) for name in published})
    assert numbers == list(range(1, 2 * len(numbers), 2))
    name = list(ours.unet.attn_processors)[numbers[3]]
    attention = ours.unet.get_submodule(name.removesuffix(".processor"))
    assert torch.equal(published[f"ip_adapter.{numbers[3]}.to_k_ip.weight"], attention.to_k.weight)
    assert torch.equal(published[f"ip_adapter.{numbers[3]}.to_v_ip.weight"], attention.to_v.weight)


class AttnProcessor(nn.Module):
    """The original's processor of self-attention: a module without weights."""

    tokens = 0

    def forward(self, attention, x, encoder_hidden_states=None, **_):
        states = x if encoder_hidden_states is None else encoder_hidden_states
        text, person = states[:, : states.shape[1] - self.tokens], states[:, -self.tokens :]
        query = attention.to_q(x)
        seen = self.look(attention, query, attention.to_k(text), attention.to_v(text))
        if self.tokens:
            keys, values = self.to_k_ip(person), self.to_v_ip(person)
            seen = seen + self.look(attention, query, keys, values)
        return attention.to_out[0](seen)

    def look(self, attention, *parts):
        split = (part.unflatten(2, (attention.heads, -1)).transpose(1, 2) for part in parts)
        return nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


class IPAttnProcessor(AttnProcessor):
    """The original's of cross-attention, whose last tokens are the person's."""

    def __init__(self, hidden_size, cross_attention_dim, num_tokens):
        super().__init__()
        self.tokens = num_tokens
        self.to_k_ip, self.to_v_ip = (
            nn.Linear(cross_attention_dim, hidden_size, bias=False) for _ in range(2)
        )


def community_unet(base, state_dict):
    """Return a UNet as the community pipeline's ``set_ip_adapter`` loads it."""
    unet, processors = load_unet(base), {}
    width = unet.config.cross_attention_dim
    for name in unet.attn_processors:
        size = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        own = name.endswith("attn1.processor")
        processors[name] = AttnProcessor() if own else IPAttnProcessor(size, width, num_tokens=16)
    unet.set_attn_processor(processors)
    layers = nn.ModuleList(unet.attn_processors.values())
    layers.load_state_dict(state_dict["ip_adapter"], strict=True)
    return unet


@torch.no_grad()
def test_the_community_pipeline_loads_our_keys_and_values_strictly_and_predicts_the_same():
    ours = adapter()
    rng = torch.Generator().manual_seed(0)
    for name, weight in ours.weights().items():
        if name.startswith("unet."):
            weight.copy_(0.2 * torch.randn(weight.shape, generator=rng))
    state_dict = {"image_proj": {}, "ip_adapter": {}}
    for name, weight in ours.publish().items():
        part, _, rest = name.partition(".")
        state_dict[part][rest] = weight
    theirs = community_unet("random:tiny-sd", state_dict)
    noise, text, person = (
        torch.randn(shape, generator=rng) for shape in ((2, 4, 16, 16), (2, 5, 32), (2, 16, 32))
    )
    known = ours.unet(noise, 500, (text, [person[:, None]])).sample
    found = theirs(noise, 500, torch.cat([text, person], dim=1)).sample
    torch.testing.assert_close(found, known, rtol=1e-4, atol=1e-5)
    nobody = ours.unet(noise, 500, (text, [torch.zeros_like(person[:, None])])).sample
    assert (nobody - known).abs().max() > 1e-3


def test_what_is_published_is_adopted_back():
    ours = adapter()
    back = ours.adopt(ours.publish(), PATH)
    mine = {n: w for n, w in ours.weights().items() if not n.startswith("controlnet.")}
    assert back.keys() == mine.keys()
    assert all(torch.equal(back[name], weight) for name, weight in mine.items())


def test_weights_that_do_not_fit_are_refused():
    ours = adapter()
    held = ours.publish()
    with pytest.raises(BadWeights, match=r"lacks the weight 'image_proj\.latents'"):
        ours.adopt({n: w for n, w in held.items() if n != "image_proj.latents"}, PATH)
    with pytest.raises(BadWeights, match=r"of shape \(7,\), and the model \(64,\)"):
        ours.adopt(held | {"image_proj.proj_in.bias": torch.ones(7)}, PATH)


def test_identity_net_begins_as_the_base_and_adds_nothing():
    ours = adapter()
    assert torch.equal(ours.controlnet.conv_in.weight, ours.unet.conv_in.weight)
    inner = ours.controlnet.down_blocks.state_dict()
    base = ours.unet.down_blocks.state_dict()
    assert all(torch.equal(base[name], weight) for name, weight in inner.items())
    down, middle = ours.controlnet(
        torch.randn(1, 4, 16, 16), 500, torch.randn(1, 16, 32), torch.rand(1, 3, 64, 64),
        return_dict=False,
    )  # fmt: skip
    assert all(not each.any() for each in [*down, middle])


def test_one_seed_makes_one_adapter_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    one, same, other = (adapter(seed=seed).resampler.latents for seed in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("latent_px", [3, 16])
def test_latents_to_whose_size_no_drawing_can_be_brought_are_refused(latent_px):
    with pytest.raises(BadValue, match=f"stands for {latent_px} px.*1, 2, 4 or 8"):
        adapter(latent_px=latent_px)


def test_a_base_without_cross_attention_is_refused():
    plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    settings = UNETS["tiny-sd"] | plain | {"mid_block_type": None}
    unet = UNet2DConditionModel.from_config(settings)
    with pytest.raises(BadValue, match="no cross-attention"):
        InstantIDAdapter(unet, "x", identity_dim=8, tokens=16, latent_px=4, seed=0)


def test_the_parts_have_the_published_number_of_parameters():
    """422.8 million in ip-adapter.bin, 1,251 in ControlNetModel."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNETS["sdxl"])
        ours = InstantIDAdapter(unet, "x", identity_dim=512, tokens=16, latent_px=8, seed=0)
    counts = {}
    for name, weight in ours.weights().items():
        part = name.partition(".")[0]
        counts[part] = counts.get(part, 0) + weight.numel() / 1e6
    rounded = {part: round(count, 1) for part, count in counts.items()}
    assert rounded == {"resampler": 82.0, "unet": 340.8, "controlnet": 1251.0}
    attention = ours.resampler.layers[0].attn
    assert (attention.heads, attention.inner_dim, len(ours.resampler.layers)) == (20, 1280, 4)
    assert ours.controlnet.config.conditioning_embedding_out_channels == (16, 32, 96, 256)
