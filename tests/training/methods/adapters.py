"""Adapters on tiny bases, what they are told, and diffusers' pipelines around the same bases."""

from dataclasses import replace

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from training.features import EMPTY_FILE, Features
from training.method import Condition, Sampling
from training.methods.ip_adapter_faceid import IPAdapterFaceID
from training.nets.presets import load_unet, load_vae
from training.settings import BaseModelSettings, MethodSettings, TrainRecipe

DIM, TOKENS, WIDTH, POOLED = 32, 5, 32, 32
IMAGE = (5, 24)
FEATURES = Features(
    corpus="c0ffee",
    image_px=64,
    codec="random:tiny-sd",
    latent_shape=(4, 16, 16),
    text_shape=(TOKENS, WIDTH),
    identity_dim=DIM,
    embedder="dlib@0123456789ab",
    backend="dlib",
    identity_mean=(0.1,) * DIM,
    identity_std=(0.5,) * DIM,
    image_shape=IMAGE,
)
VARIANTS = {
    "faceid": MethodSettings(),
    "faceid with LoRA": MethodSettings(lora_rank=4),
    "plus": MethodSettings(variant="plus", shortcut=False),
    "plus V2 with LoRA": MethodSettings(variant="plus", lora_rank=4),
    "portrait": MethodSettings(variant="portrait", tokens=16),
}
SD, SDXL = "random:tiny-sd", "random:tiny-sdxl"


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def empty():
    """What stands for dropped conditions in these features."""
    return {
        "text": drawn(TOKENS, WIDTH, seed=11),
        "pooled": drawn(POOLED, seed=12),
        "image": drawn(*IMAGE, seed=13),
    }


def make(
    folder, method=VARIANTS["faceid"], *, base=SD, features=FEATURES, kind=IPAdapterFaceID, **more
):
    """Make a method from features in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    held = empty()
    if base == SDXL:
        features = replace(features, pooled_dim=POOLED, codec=SDXL)
    else:
        del held["pooled"]
    save_file(held, folder / EMPTY_FILE)
    recipe = TrainRecipe(name="test", base=BaseModelSettings(weights=base), method=method, **more)
    return kind(recipe, features, folder)


def faces_of(method):
    return 3 if method.recipe.method.variant == "portrait" else 1


def batch(count=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return {
        "latents": torch.randn(count, 4, 16, 16, generator=rng),
        "noise": torch.randn(count, 4, 16, 16, generator=rng),
        "identity": torch.randn(count, DIM, generator=rng),
        "target_identity": torch.randn(count, 128, generator=rng),
        "text": torch.randn(count, TOKENS, WIDTH, generator=rng),
        "landmarks": torch.tensor([[42, 28], [37, 28], [22, 28], [27, 28], [32, 40.0]]).expand(
            count, 5, 2
        ),
        "mask": torch.ones(count, 16, 16),
        "time": torch.rand(count, generator=rng),
        "drop": torch.ones(count),
        "pooled": torch.randn(count, POOLED, generator=rng),
        "image": torch.randn(count, *IMAGE, generator=rng),
        "size": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * count),
    }


def moved(method, seed=1):
    """Move every trained weight, as if it had been trained: a LoRA begins at zero."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in method.trainable().values():
            weight += 0.2 * torch.randn(weight.shape, generator=rng)
    return method


def condition(method, count=2):
    """Ask for somebody, with a prompt, and all that the variant looks at."""
    faces, variant = faces_of(method), method.recipe.method.variant
    identity = drawn(count, DIM, seed=2) if faces == 1 else drawn(count, faces, DIM, seed=2)
    return Condition(
        identity,
        text=drawn(count, TOKENS, WIDTH, seed=3),
        pooled=drawn(count, POOLED, seed=4) if method.features.pooled_dim else None,
        image=drawn(count, *IMAGE, seed=5) if variant == "plus" else None,
    )


def painted(method, asked=None, *, steps=3, **how):
    rng = torch.Generator().manual_seed(7)
    return method.generate(asked or condition(method), rng, Sampling(steps=steps, **how))


def pipeline(base=SD):
    """Build Stable Diffusion's pipeline, tiny, around the same base as the adapters here."""
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        timestep_spacing="trailing", steps_offset=1,
    )  # fmt: skip
    parts = {"vae": load_vae(base), "unet": load_unet(base), "scheduler": scheduler,
             "tokenizer": None, "feature_extractor": None}  # fmt: skip
    if base == SDXL:
        pipe = StableDiffusionXLPipeline(
            **parts, text_encoder=None, text_encoder_2=None, tokenizer_2=None
        )
    else:
        text = CLIPTextConfig(
            vocab_size=99, hidden_size=32, intermediate_size=37, num_hidden_layers=1,
            num_attention_heads=4, max_position_embeddings=77, projection_dim=32,
            bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
        pipe = StableDiffusionPipeline(
            **parts, text_encoder=CLIPTextModel(text).eval(), safety_checker=None,
            requires_safety_checker=False,
        )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def painted_by(pipe, method, *, adapter=True):
    """Paint what ``painted`` paints, one by one: the pipeline takes one identity at a time."""
    asked, held = condition(method), empty()
    noise = drawn(2, 4, 16, 16, seed=7)
    known = method.conditions.whole(asked.identity, image=asked.image, text=None, pooled=None)
    pictures = []
    for i in range(2):
        told = {
            "prompt_embeds": asked.text[i : i + 1],
            "negative_prompt_embeds": held["text"][None],
        }
        if asked.pooled is not None:
            told |= {
                "pooled_prompt_embeds": asked.pooled[i : i + 1],
                "negative_pooled_prompt_embeds": held["pooled"][None],
                "height": 64, "width": 64,
            }  # fmt: skip
        if adapter:
            vectors = known.faces[i, :, :DIM]
            told["ip_adapter_image_embeds"] = [torch.stack([torch.zeros_like(vectors), vectors])]
            projection = pipe.unet.encoder_hid_proj.image_projection_layers[0]
            if asked.image is not None:
                states = torch.stack([held["image"], asked.image[i]])
                projection.clip_embeds = states[:, None]
                projection.shortcut = method.recipe.method.shortcut
        pictures += pipe(
            latents=noise[i : i + 1],
            num_inference_steps=3,
            guidance_scale=2.0,
            output_type="pt",
            **told,
        ).images
    return torch.stack(pictures)


def learnt_by_heart(method, learning_rate):
    """Train on the same eight samples twenty times; return the losses."""
    given = batch(8)
    given["latents"] = given["identity"][:, :4, None, None].expand(8, 4, 8, 8).contiguous()
    given["noise"] = given["noise"][..., :8, :8].contiguous()
    optimiser = torch.optim.AdamW(method.trainable().values(), lr=learning_rate)
    history = []
    for _ in range(20):
        loss = method(given)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    return history
