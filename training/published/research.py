"""Runs of adapters whose papers say more than their code; what is not published is said to be ours.

See ``training.recipes``.
"""

from training.settings import (
    BaseModelSettings,
    DropSettings,
    LossSettings,
    MethodSettings,
    OptimiserSettings,
    Scale,
    TrainRecipe,
)

_EIGHT = Scale(workers=8, use_gpu=True, zero_stage=1, precision="bf16", gradient_checkpointing=True)


def infinite_id_sdxl() -> TrainRecipe:
    """Train Infinite-ID as published, on SDXL: one node of eight GPUs.

    Draw with guidance 5 and 30 steps, as published. Tokens of the vector and drops are ours; text
    is never told, and so never dropped.

    References:
        Infinite-ID (arXiv:2403.11781): 16 GPUs with 4 pictures each, a million steps, AdamW 1e-4,
        weight decay 0.01.
    """
    return TrainRecipe(
        name="infinite_id_sdxl",
        base=BaseModelSettings(weights="random:sdxl"),
        method=MethodSettings(kind="infinite_id"),
        drop=DropSettings(identity=0.1, text=0.0, both=0.0),
        optimiser=OptimiserSettings(warmup_steps=500),
        scale=_EIGHT,
        steps=1_000_000,
        batch=64,
        microbatch=4,
        save_every=5000,
    )


def face_chain_fact_sd15() -> TrainRecipe:
    """Train FaceChain-FACT on Stable Diffusion 1.5: one node of eight GPUs, 512 px.

    Training code was not published: rate, steps, shares of drops and the first tenth of the run, in
    which these grow from 0, are ours.

    References:
        FaceChain-FACT (arXiv:2410.12312) and face_adapter_v1.py: 16 tokens, drawn with guidance 5;
        the released weights are named for a regularisation of 0.01.
    """
    return TrainRecipe(
        name="face_chain_fact_sd15",
        base=BaseModelSettings(weights="random:sd15"),
        method=MethodSettings(kind="face_chain_fact", tokens=16, curriculum=0.1),
        losses=LossSettings(fair=0.01),
        drop=DropSettings(identity=0.1, text=0.05, both=0.05),
        optimiser=OptimiserSettings(warmup_steps=500),
        scale=_EIGHT,
        steps=100_000,
        batch=64,
        save_every=2000,
    )


def dp_adapter_sd15() -> TrainRecipe:
    """Train DP-Adapter on Stable Diffusion 1.5: one node of eight GPUs, 512 px.

    Training code was not published: all numbers are those of IP-Adapter-FaceID, or ours.

    References:
        DP-Adapter (arXiv:2502.13999), IP-Adapter (arXiv:2308.06721).
    """
    return TrainRecipe(
        name="dp_adapter_sd15",
        base=BaseModelSettings(weights="random:sd15"),
        method=MethodSettings(kind="dp_adapter"),
        optimiser=OptimiserSettings(warmup_steps=500),
        scale=_EIGHT,
        steps=100_000,
        batch=64,
        save_every=2000,
    )


def uni_id_sdxl() -> TrainRecipe:
    """Train UniID on SDXL, both branches in one run: one node of eight GPUs.

    Draw with ``rescale``, guidance 7.5 and 30 steps, as published. The original trains words at
    1e-4 and the adapter at 1e-5, one after the other; here both learn at once, at the lower rate.

    References:
        UniID (arXiv:2512.03964) and its train_uniid.sh: 3 words, 25 tokens, 512 px, 23 and 19
        pictures at once, 12 and 16 epochs, weight decay 0.01, 5 % each of dropped adapter, words,
        both. Here a dropped identity is all of both, in as many samples.
    """
    return TrainRecipe(
        name="uni_id_sdxl",
        base=BaseModelSettings(weights="random:sdxl"),
        method=MethodSettings(kind="uni_id", tokens=25, text_tokens=3),
        drop=DropSettings(identity=0.1, text=0.0, both=0.0),
        optimiser=OptimiserSettings(learning_rate=1e-5, warmup_steps=500),
        scale=_EIGHT,
        steps=100_000,
        batch=40,
        microbatch=5,
        save_every=2000,
    )


RESEARCH_RECIPES = (infinite_id_sdxl, face_chain_fact_sd15, dp_adapter_sd15, uni_id_sdxl)
