import json
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from infra.errors import BadValue, BadWeights
from training.features import Features
from training.method import Condition
from training.methods.ip_adapter_faceid import IPAdapterFaceID, dropped
from training.nets.presets import load_unet, load_vae
from training.recipes import (
    BaseModelSettings,
    DropSettings,
    LossSettings,
    MethodSettings,
    Scale,
    TrainRecipe,
)

DIM = 32
FEATURES = Features(
    corpus="c0ffee",
    image_px=64,
    codec="random:tiny-sd",
    latent_shape=(4, 16, 16),
    text_shape=(5, 32),
    identity_dim=DIM,
    embedder="dlib@0123456789ab",
    backend="dlib",
    identity_mean=(0.1,) * DIM,
    identity_std=(0.5,) * DIM,
)


def recipe(lora_rank=0, norm="unit", **more):
    return TrainRecipe(
        name="test", method=MethodSettings(lora_rank=lora_rank, identity_norm=norm), **more
    )


def batch(count=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return {
        "latents": torch.randn(count, 4, 16, 16, generator=rng),
        "noise": torch.randn(count, 4, 16, 16, generator=rng),
        "identity": torch.randn(count, DIM, generator=rng),
        "target_identity": torch.randn(count, 128, generator=rng),
        "text": torch.randn(count, 5, 32, generator=rng),
        "landmarks": torch.tensor([[42, 28], [37, 28], [22, 28], [27, 28], [32, 40.0]]).expand(
            count, 5, 2
        ),
        "mask": torch.ones(count, 16, 16),
        "time": torch.rand(count, generator=rng),
        "drop": torch.ones(count),
    }


def moved(method, seed=1):
    """Move every trained weight, as if it had been trained: a LoRA begins at zero."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in method.trainable().values():
            weight += 0.2 * torch.randn(weight.shape, generator=rng)
    return method


def condition(count=2):
    given = batch(count, seed=2)
    return Condition(identity=given["identity"], text=given["text"])


def painted(method, **more):
    rng = torch.Generator().manual_seed(7)
    return method.generate(condition(), rng, steps=3, **more)


def pipeline():
    """Build Stable Diffusion's pipeline, tiny, around the same base as the recipes here."""
    text = CLIPTextConfig(
        vocab_size=99, hidden_size=32, intermediate_size=37, num_hidden_layers=1,
        num_attention_heads=4, max_position_embeddings=77, projection_dim=32,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=load_vae("random:tiny-sd"),
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=None,
        unet=load_unet("random:tiny-sd"),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            timestep_spacing="trailing", steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def painted_by(pipe, normalised=None):
    """Paint what ``painted`` paints, one by one: the pipeline takes one identity at a time."""
    asked, noise = (
        condition(),
        torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(7)),
    )
    pictures = []
    for i in range(2):
        identity = {}
        if normalised is not None:
            pair = torch.stack([torch.zeros(DIM), normalised[i]])
            identity = {"ip_adapter_image_embeds": [pair[:, None]]}
        text = asked.text[i : i + 1]
        pictures += pipe(
            prompt_embeds=text,
            negative_prompt_embeds=torch.zeros_like(text),
            latents=noise[i : i + 1],
            num_inference_steps=3,
            guidance_scale=2.0,
            output_type="pt",
            **identity,
        ).images
    return torch.stack(pictures)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_diffusers_loads_what_is_saved_and_paints_the_same(tmp_path, lora_rank):
    method = moved(IPAdapterFaceID.make(recipe(lora_rank), FEATURES))
    method.save(tmp_path)
    pipe = pipeline()
    pipe.load_ip_adapter(
        str(tmp_path),
        subfolder="",
        weight_name="ip-adapter-faceid.safetensors",
        image_encoder_folder=None,
        local_files_only=True,
    )
    theirs = painted_by(pipe, method.normalised(condition().identity))
    ours = painted(method)
    assert ours.shape == (2, 3, 64, 64)
    assert (ours - theirs).abs().max() < 1e-5
    assert (ours - painted(method, scale=0.0)).abs().max() > 1e-3


def test_the_companion_file_is_the_same_lora(tmp_path):
    method = moved(IPAdapterFaceID.make(recipe(lora_rank=4), FEATURES))
    method.save(tmp_path)
    pipe = pipeline()
    pipe.load_lora_weights(
        str(tmp_path), weight_name="ip-adapter-faceid.lora.safetensors", local_files_only=True
    )
    theirs = painted_by(pipe)
    for processor in list(method.unet.attn_processors.values())[1::2]:
        processor.scale = [0.0]
    given, text = batch(), condition().text
    with torch.no_grad():
        added = {"image_embeds": [torch.zeros(2, 1, DIM)]}
        times = torch.tensor([500, 900])
        ours = method.unet(given["latents"], times, text, added_cond_kwargs=added).sample
        lora_only = pipe.unet(given["latents"], times, text).sample
    assert (ours - lora_only).abs().max() < 1e-5
    assert (theirs - painted_by(pipeline())).abs().max() > 1e-3


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_what_is_loaded_paints_what_was_saved(tmp_path, lora_rank):
    method = moved(IPAdapterFaceID.make(recipe(lora_rank, norm="standard"), FEATURES))
    method.save(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    wanted = {"ip-adapter-faceid.safetensors", "adapter_config.json"}
    assert files == wanted | ({"ip-adapter-faceid.lora.safetensors"} if lora_rank else set())
    assert torch.equal(painted(IPAdapterFaceID.load(tmp_path)), painted(method))


def test_the_configuration_says_what_the_adapter_was_made_for(tmp_path):
    IPAdapterFaceID.make(recipe(lora_rank=4), FEATURES).save(tmp_path)
    held = json.loads((tmp_path / "adapter_config.json").read_text())
    assert held["base"]["weights"] == "random:tiny-sd"
    assert held["features"]["embedder"] == FEATURES.embedder
    assert held["features"]["identity_dim"] == DIM
    assert {k: held["method"][k] for k in ("identity_norm", "tokens", "lora_rank")} == {
        "identity_norm": "unit", "tokens": 4, "lora_rank": 4,
    }  # fmt: skip


@pytest.mark.parametrize("checkpointing", [False, True])
def test_only_the_adapter_gets_gradients_and_all_of_it_does(checkpointing):
    scale = Scale(gradient_checkpointing=checkpointing, channels_last=True)
    method = moved(IPAdapterFaceID.make(recipe(lora_rank=4, scale=scale), FEATURES))
    method(batch())["loss"].backward()
    trained = {name for name, p in method.named_parameters() if p.grad is not None}
    assert trained == set(method.trainable())
    assert all(weight.grad.abs().sum() > 0 for weight in method.trainable().values())
    assert all(
        any(part in name for part in ("image_projection_layers", "_ip.", "lora_"))
        for name in trained
    )


def test_keys_and_values_begin_as_copies_of_the_text_s():
    unet = IPAdapterFaceID.make(recipe(), FEATURES).unet
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    assert torch.equal(attention.processor.to_k_ip[0].weight, attention.to_k.weight)
    assert torch.equal(attention.processor.to_v_ip[0].weight, attention.to_v.weight)


def test_eight_samples_are_learnt_by_heart_in_a_minute():
    method = IPAdapterFaceID.make(recipe(lora_rank=16), FEATURES)
    given = batch(8)
    given["latents"] = given["identity"][:, :4, None, None].expand(8, 4, 16, 16).contiguous()
    optimiser = torch.optim.AdamW(method.trainable().values(), lr=1e-2)
    history = []
    for _ in range(60):
        loss = method(given)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < history[0] / 2, history[::10]


def test_shares_divide_the_draw_in_their_order():
    draw = torch.tensor([0.0, 0.09, 0.11, 0.29, 0.31, 0.59, 0.61, 0.99])
    no_identity, no_text = dropped(draw, DropSettings(identity=0.1, text=0.2, both=0.3))
    assert no_identity.tolist() == [True, True, False, False, True, True, False, False]
    assert no_text.tolist() == [False, False, True, True, True, True, False, False]


def test_conditions_are_dropped_per_sample(monkeypatch):
    asked = []
    shares = DropSettings(identity=0.2, text=0.2, both=0.2)
    method = IPAdapterFaceID.make(recipe(drop=shares, norm="standard"), FEATURES)
    predict = method._predict

    def spy(z_t, t, text, identity):
        asked.append((text, identity))
        return predict(z_t, t, text, identity)

    monkeypatch.setattr(method, "_predict", spy)
    given = {**batch(4), "drop": torch.tensor([0.1, 0.3, 0.5, 0.9])}
    method(given)
    [(text, identity)] = asked
    assert [bool(row.any()) for row in identity] == [False, True, False, True]
    assert [bool(row.any()) for row in text] == [True, False, False, True]
    assert torch.allclose(identity[3], (given["identity"][3] - 0.1) / 0.5)
    assert torch.equal(text[3], given["text"][3])


def test_a_dropped_identity_is_forgotten_and_a_kept_one_is_not():
    method = moved(
        IPAdapterFaceID.make(recipe(drop=DropSettings(identity=1.0, text=0.0, both=0.0)), FEATURES)
    )
    given, other = batch(), batch() | {"identity": batch(seed=9)["identity"]}
    for drawn, same in ((0.5, True), (1.0, False)):
        drop = torch.full((2,), drawn)
        losses = [method({**one, "drop": drop})["loss"].item() for one in (given, other)]
        assert (losses[0] == losses[1]) is same


@pytest.mark.parametrize("norm", ["raw", "unit", "standard"])
def test_identities_are_normalised_as_the_recipe_says(norm):
    method = IPAdapterFaceID.make(recipe(norm=norm), FEATURES)
    raw = torch.full((1, DIM), 3.0)
    wanted = {"raw": 3.0, "unit": DIM**-0.5, "standard": (3.0 - 0.1) / 0.5}[norm]
    assert torch.allclose(method.normalised(raw), torch.full((1, DIM), wanted))


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_what_is_ejected_is_the_base_as_it_was(lora_rank):
    base = load_unet("random:tiny-sd")
    ejected = moved(IPAdapterFaceID.make(recipe(lora_rank), FEATURES)).eject()
    assert repr(ejected) == repr(base)
    assert list(ejected.state_dict()) == list(base.state_dict())
    assert all(map(torch.equal, ejected.state_dict().values(), base.state_dict().values()))
    assert [p.requires_grad for p in ejected.parameters()] == [True] * len(list(base.parameters()))
    given = batch()
    with torch.no_grad():
        was, now = (
            unet(given["latents"], 5, given["text"], return_dict=False)[0]
            for unet in (base, ejected)
        )
    assert torch.equal(was, now)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_without_the_adapter_the_base_s_own_picture_is_painted(lora_rank):
    method = moved(IPAdapterFaceID.make(recipe(lora_rank), FEATURES))
    off = painted(method, scale=0.0)
    assert (off - painted_by(pipeline())).abs().max() < 1e-5
    given = batch()
    with torch.no_grad(), method.adapter_off():
        ours = method._predict(
            given["latents"], torch.tensor([5, 9]), given["text"], given["identity"]
        )
        theirs = load_unet("random:tiny-sd")(
            given["latents"], torch.tensor([5, 9]), given["text"]
        ).sample
    assert torch.equal(ours, theirs)
    assert not torch.equal(off, painted(method))


def test_a_loss_is_its_weighted_terms():
    losses = LossSettings(mse=0.5, masked=2.0, min_snr_gamma=5.0)
    method = IPAdapterFaceID.make(recipe(losses=losses), FEATURES)
    given = batch() | {"time": torch.tensor([0.01, 0.9])}
    told = method(given)
    assert told.keys() == {"loss", "mse", "masked"}
    assert torch.isclose(told["loss"], 0.5 * told["mse"] + 2.0 * told["masked"])
    assert torch.isclose(told["mse"], told["masked"])  # the mask is all ones
    plain = IPAdapterFaceID.make(recipe(), FEATURES)(given)
    assert told["mse"] < plain["mse"]


def test_the_identity_loss_reaches_the_adapter_and_counts_only_who_was_asked_for():
    losses = LossSettings(mse=0.0, identity=1.0)
    shares = DropSettings(identity=0.5, text=0.0, both=0.0)
    method = IPAdapterFaceID.make(recipe(losses=losses, drop=shares), FEATURES)
    told = method(batch())
    told["loss"].backward()
    assert told["identity"] > 0
    assert any(weight.grad.abs().sum() > 0 for weight in method.trainable().values())
    assert method({**batch(), "drop": torch.zeros(2)})["identity"] == 0


def test_features_without_text_can_be_trained_on():
    method = IPAdapterFaceID.make(recipe(), replace(FEATURES, text_shape=(0, 0)))
    given = batch()
    del given["text"]
    assert method(given)["loss"].isfinite()
    asked = Condition(identity=given["identity"])
    assert method.generate(asked, torch.Generator(), steps=2).shape == (2, 3, 64, 64)


def test_a_module_cast_to_bfloat16_still_takes_float32_batches():
    method = moved(IPAdapterFaceID.make(recipe(norm="standard"), FEATURES)).to(torch.bfloat16)
    told = method(batch())
    told["loss"].backward()
    assert told["loss"].dtype == torch.float32
    assert painted(method).dtype == torch.float32


def test_sdxl_s_added_conditions_are_given(tmp_path):
    tiny = dict(load_unet("random:tiny-sd").config) | {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 16,
    }
    UNet2DConditionModel.from_config(tiny).save_pretrained(tmp_path)
    base = BaseModelSettings(weights=f"file:{tmp_path}")
    assert IPAdapterFaceID.make(recipe(base=base), FEATURES)(batch())["loss"].isfinite()


def test_a_base_without_cross_attention_is_refused(tmp_path):
    UNet2DConditionModel(
        block_out_channels=(32, 32), norm_num_groups=8, layers_per_block=1, mid_block_type=None,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    ).save_pretrained(tmp_path)  # fmt: skip
    base = BaseModelSettings(weights=f"file:{tmp_path}")
    with pytest.raises(BadValue, match=r"no cross-attention .* give a text-to-image base"):
        IPAdapterFaceID.make(recipe(base=base), FEATURES)


@pytest.mark.parametrize("other", [{"latent_shape": (12, 16, 16)}, {"text_shape": (77, 768)}])
def test_features_of_another_base_are_refused(other):
    with pytest.raises(BadValue, match="prepare them with this base's codec and text encoder"):
        IPAdapterFaceID.make(recipe(), replace(FEATURES, **other))


def test_an_adapter_for_another_identity_is_refused(tmp_path):
    IPAdapterFaceID.make(recipe(), FEATURES).save(tmp_path)
    path = tmp_path / "adapter_config.json"
    held = json.loads(path.read_text())
    held["features"] |= {"identity_dim": 512}
    path.write_text(json.dumps(held))
    with pytest.raises(BadWeights, match=r"'image_proj.proj.0.weight' of shape \(64, 32\)"):
        IPAdapterFaceID.load(tmp_path)


def test_an_adapter_with_a_weight_too_few_is_refused(tmp_path):
    IPAdapterFaceID.make(recipe(), FEATURES).save(tmp_path)
    path = tmp_path / "ip-adapter-faceid.safetensors"
    held = load_file(path)
    del held["ip_adapter.1.to_k_ip.weight"]
    save_file(held, path)
    with pytest.raises(BadWeights, match=r"lacks the weight 'ip_adapter\.1\.to_k_ip\.weight'"):
        IPAdapterFaceID.load(tmp_path)


def test_a_pickled_adapter_is_refused(tmp_path):
    IPAdapterFaceID.make(recipe(), FEATURES).save(tmp_path)
    path = tmp_path / "ip-adapter-faceid.safetensors"
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(BadWeights, match=r"does not exist.*convert a \.bin to safetensors"):
        IPAdapterFaceID.load(tmp_path)
    torch.save({"image_proj": {}, "ip_adapter": {}}, path)
    with pytest.raises(BadWeights, match="is not safetensors"):
        IPAdapterFaceID.load(tmp_path)
