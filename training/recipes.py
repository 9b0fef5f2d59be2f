"""Every training run we stand behind, each a function that returns its whole recipe."""

from collections.abc import Callable
from dataclasses import replace

from infra.configuration import named
from training.published.adapters import ADAPTER_RECIPES
from training.published.research import RESEARCH_RECIPES
from training.published.subject import SUBJECT_RECIPES
from training.published.video import VIDEO_RECIPES
from training.settings import (
    BaseModelSettings,
    DropSettings,
    MethodSettings,
    OptimiserSettings,
    Scale,
    TrainRecipe,
)


def tiny() -> TrainRecipe:
    """Train an adapter on a tiny random model in a minute, on a CPU; what the tests train."""
    return TrainRecipe(
        name="tiny",
        optimiser=OptimiserSettings(learning_rate=1e-3),
        steps=60,
        save_every=30,
        log_every=10,
    )


def lfw64() -> TrainRecipe:
    """Learn identity at 64 px from nothing, identity-conditioned from the start, on a CPU."""
    return TrainRecipe(
        name="lfw64",
        base=BaseModelSettings(
            weights="random:unet64",
            prediction="v_prediction",
            beta_schedule="squaredcos_cap_v2",
        ),
        method=MethodSettings(kind="base", identity_norm="standard"),
        drop=DropSettings(identity=0.1, text=0.0, both=0.0),
        optimiser=OptimiserSettings(
            learning_rate=5e-4, warmup_steps=50, schedule="linear", ema_decay=0.998
        ),
        scale=Scale(precision="bf16"),
        steps=1800,
        batch=32,
        microbatch=32,
        save_every=300,
    )


def lfw64_base() -> TrainRecipe:
    """Learn faces at 64 px from nothing, nobody's in particular: the first of two steps.

    Its export is the frozen base of `lfw64_adapter`, on the same features.
    """
    return replace(
        lfw64(),
        name="lfw64_base",
        method=MethodSettings(kind="base", condition="none", identity_norm="standard"),
        drop=DropSettings(identity=0.0, text=0.0, both=0.0),
    )


def lfw64_text_base() -> TrainRecipe:
    """Learn faces at 64 px by their captions: the first of two steps, as Stable Diffusion learnt.

    Prepare with --text-encoder random:tiny-sd128 --caption attributes: a tokenizer of bytes cuts
    after 75 of them. Its export is a frozen base of `lfw64_adapter`, on the same features.
    """
    return replace(
        lfw64(),
        name="lfw64_text_base",
        method=MethodSettings(kind="base", condition="text", identity_norm="standard"),
        drop=DropSettings(identity=0.0, text=0.1, both=0.0),
    )


def lfw64_adapter() -> TrainRecipe:
    """Put an identity adapter on a frozen base of `lfw64_base` or `lfw64_text_base`: step two.

    Name the base: --base.weights file:<run of that>/step-<number>/export
    """
    return replace(
        lfw64(),
        name="lfw64_adapter",
        base=replace(lfw64().base, weights=""),
        method=MethodSettings(identity_norm="standard"),
    )


def ip_adapter_faceid_sd15() -> TrainRecipe:
    """Train IP-Adapter-FaceID as published, on Stable Diffusion 1.5: one GPU, 512 px.

    References:
        IP-Adapter (arXiv:2308.06721) and its tutorial_train_faceid.py: MLP of 4 tokens, LoRA of
        rank 128, AdamW 1e-4, 5 % each of dropped identity, text, both.
    """
    return TrainRecipe(
        name="ip_adapter_faceid_sd15",
        base=BaseModelSettings(weights="random:sd15"),
        method=MethodSettings(lora_rank=128),
        optimiser=OptimiserSettings(warmup_steps=500, ema_decay=0.9999),
        scale=Scale(use_gpu=True, precision="bf16", channels_last=True),
        steps=100_000,
        save_every=2000,
    )


def ip_adapter_faceid_sdxl_8xh200() -> TrainRecipe:
    """Train IP-Adapter-FaceID on SDXL at 1024 px, on one node of eight H200."""
    return replace(
        ip_adapter_faceid_sd15(),
        name="ip_adapter_faceid_sdxl_8xh200",
        base=BaseModelSettings(weights="random:sdxl"),
        scale=Scale(
            workers=8, use_gpu=True, zero_stage=1, precision="bf16", gradient_checkpointing=True
        ),
        batch=64,
    )


def instant_id_sdxl() -> TrainRecipe:
    """Train InstantID as published, on SDXL: one node of eight GPUs.

    References:
        InstantID (arXiv:2401.07519): 16 tokens of raw vectors, Resampler and IdentityNet trained;
        train_instantId_sdxl.py of FaceID-6M: 8 pictures of 512 px per GPU, AdamW 1e-5, weight
        decay 0.01, 5 % each of dropped identity, text, both. The paper's own run had 2 pictures on
        each of 48 GPUs.
    """
    return TrainRecipe(
        name="instant_id_sdxl",
        base=BaseModelSettings(weights="random:sdxl"),
        method=MethodSettings(kind="instant_id", tokens=16, identity_norm="raw"),
        optimiser=OptimiserSettings(learning_rate=1e-5, warmup_steps=500),
        scale=Scale(
            workers=8, use_gpu=True, zero_stage=2, precision="bf16", gradient_checkpointing=True
        ),
        steps=100_000,
        batch=64,
        save_every=2000,
    )


def arc2face_sd15() -> TrainRecipe:
    """Train Arc2Face on Stable Diffusion 1.5, UNet and text encoder both: one node of eight GPUs.

    Draw with guidance 3, as published. The share of dropped identities is ours: the paper names
    none, and guidance needs some.

    References:
        Arc2Face (arXiv:2403.11641): unit vectors in the prompt "photo of a id person", restored
        WebFace42M at 448 px, then FFHQ and CelebA-HQ at 512 px.
    """
    return TrainRecipe(
        name="arc2face_sd15",
        base=BaseModelSettings(weights="random:sd15"),
        method=MethodSettings(kind="arc2face"),
        drop=DropSettings(identity=0.1, text=0.0, both=0.0),
        optimiser=OptimiserSettings(learning_rate=1e-6, warmup_steps=500),
        scale=Scale(workers=8, use_gpu=True, zero_stage=2, precision="bf16"),
        steps=100_000,
        batch=32,
        save_every=2000,
    )


RECIPES: dict[str, Callable[[], TrainRecipe]] = {
    make.__name__: make
    for make in (tiny, lfw64, lfw64_base, lfw64_text_base, lfw64_adapter, ip_adapter_faceid_sd15,
                 ip_adapter_faceid_sdxl_8xh200, instant_id_sdxl, arc2face_sd15)
}  # fmt: skip
RECIPES |= {
    make.__name__: make
    for make in (*ADAPTER_RECIPES, *RESEARCH_RECIPES, *SUBJECT_RECIPES, *VIDEO_RECIPES)
}


def recipe(name: str) -> TrainRecipe:
    """Look a recipe up by name; see ``named``."""
    return named(name, RECIPES)
