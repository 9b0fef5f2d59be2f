"""Per-subject methods on tiny bases, what they learn from, and diffusers' pipelines beside them."""

import re
from dataclasses import replace

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file

from tests.training.conftest import write_features
from tests.training.methods import adapters
from tests.training.methods.adapters import DIM, SD, SDXL, drawn
from training.features import EMPTY_FILE
from training.method import Condition, Sampling
from training.nets.presets import load_unet, load_vae
from training.nets.text import load_clip_text, load_text_encoder
from training.settings import BaseModelSettings, DropSettings, TrainRecipe

NOBODY = Condition(torch.zeros(2, DIM))
KEPT = DropSettings(identity=0.0, text=0.0, both=0.0)
FEATURES = replace(
    adapters.FEATURES, text_shape=(77, 32), text_encoder=SD, image_shape=(5, 32),
    image_encoder="random:tiny-clip",
)  # fmt: skip


def make(folder, kind, method, *, base=SD, features=FEATURES, **more):
    """Make a method from features in a folder."""
    write_features(folder, people=1, dim=DIM)
    encoder = load_text_encoder(SDXL if base == SDXL else SD)
    if base == SDXL:
        features = replace(features, pooled_dim=32, codec=SDXL, text_encoder=SDXL)
    text, pooled = encoder.encode([""])
    held = {"text": text[0]} | ({} if pooled is None else {"pooled": pooled[0]})
    save_file({name: tensor.clone() for name, tensor in held.items()}, folder / EMPTY_FILE)
    more = {"drop": KEPT} | more
    recipe = TrainRecipe(name="test", base=BaseModelSettings(weights=base), method=method, **more)
    return kind(recipe, features, folder)


def batch(count=8, seed=0):
    """Samples of a subject and, every second one, of the class."""
    rng = torch.Generator().manual_seed(seed)
    return {
        "latents": torch.randn(count, 4, 8, 8, generator=rng),
        "noise": torch.randn(count, 4, 8, 8, generator=rng),
        "identity": torch.randn(count, DIM, generator=rng),
        "target_identity": torch.randn(count, 128, generator=rng),
        "text": torch.randn(count, 77, 32, generator=rng),
        "landmarks": torch.rand(count, 5, 2, generator=rng) * 32,
        "mask": torch.ones(count, 8, 8),
        "time": torch.rand(count, generator=rng),
        "drop": torch.ones(count),
        "is_prior": torch.arange(count) % 2 == 1,
    }


def learnt(method, given, learning_rate, steps=20):
    """Train on the same samples; return the losses."""
    optimiser = torch.optim.AdamW(method.trainable().values(), lr=learning_rate)
    history = []
    for _ in range(steps):
        loss = method(given)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    return history


@torch.no_grad()
def taught(teacher, given):
    """Make samples whose noise is what a teacher predicts: who learns its word predicts them all.

    A word alone cannot learn any noise by heart, as an adapter can.
    """
    z_t = torch.randn(given["noise"].shape, generator=torch.Generator().manual_seed(3))
    noised = teacher.schedule.noised(given["latents"], given["noise"], given["time"])
    noise = teacher.unet(z_t, noised.t, teacher._words(given)["text"]).sample
    alpha = teacher.schedule.alphas_cumprod[noised.t].view(-1, 1, 1, 1)
    latents = (z_t - (1 - alpha).sqrt() * noise) / alpha.sqrt()
    return given | {"noise": noise, "latents": latents}


def painted(method, asked=NOBODY, *, steps=3, **how):
    rng = torch.Generator().manual_seed(7)
    return method.generate(asked, rng, Sampling(steps=steps, **how))


def pipeline(base=SD):
    """Build diffusers' pipeline, tiny, of the same parts as the methods here have."""
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        timestep_spacing="trailing", steps_offset=1,
    )  # fmt: skip
    parts = {"vae": load_vae(base), "unet": load_unet(base), "scheduler": scheduler,
             "feature_extractor": None}  # fmt: skip
    if base == SDXL:
        parts |= {"tokenizer": None, "text_encoder": None, "tokenizer_2": None}
        pipe = StableDiffusionXLPipeline(**parts, text_encoder_2=None)
    else:
        tokenizer, text = load_clip_text(base)
        parts |= {"tokenizer": tokenizer, "text_encoder": text.eval(), "safety_checker": None}
        pipe = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def painted_by(pipe, prompt, *, count=2, guidance=2.0, **more):
    """Paint a prompt from the noise that ``painted`` begins with."""
    return pipe(
        [prompt] * count, latents=drawn(count, 4, 16, 16, seed=7), num_inference_steps=3,
        guidance_scale=guidance, output_type="pt", **more,
    ).images  # fmt: skip


def carded(export, **names):
    """Carry out what an export's card says, in two steps; return all names that it leaves."""
    told = {"folder": str(export), **names}
    text = (export / "README.md").read_text().replace("steps=30", "steps=2")
    for code in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(code, told)  # the card's own code
    return told
