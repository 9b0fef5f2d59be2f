"""Runs that train adapters as published, beside those of ``training.recipes``."""

from training.settings import (
    BaseModelSettings,
    DropSettings,
    LossSettings,
    MethodSettings,
    OptimiserSettings,
    Scale,
    TrainRecipe,
)

_EIGHT = Scale(workers=8, use_gpu=True, zero_stage=1, precision="bf16", channels_last=True)


def consistent_id_sd15() -> TrainRecipe:
    """Train ConsistentID on Stable Diffusion 1.5: one node of eight GPUs, 512 px.

    The number of steps is ours: the published run is counted in epochs of its own corpus.

    References:
        ConsistentID (arXiv:2404.16771) and its train.py: LoRA of rank 128, AdamW 1e-4, everything
        dropped in 10 % of the samples, half of the steps inside the mask, localisation 0.01.
    """
    return TrainRecipe(
        name="consistent_id_sd15",
        base=BaseModelSettings(weights="random:sd15"),
        method=MethodSettings(kind="consistent_id", lora_rank=128),
        losses=LossSettings(mse=0.5, masked=0.5, localise=0.01),
        drop=DropSettings(identity=0.0, text=0.0, both=0.1),
        optimiser=OptimiserSettings(warmup_steps=500),
        scale=_EIGHT,
        steps=100_000,
        batch=64,
        save_every=2000,
    )


def fast_composer_sd15() -> TrainRecipe:
    """Train FastComposer on Stable Diffusion 1.5: one node of eight GPUs, 512 px.

    Draw with ``start_step`` at 20 to 40 % of the steps, as published.

    References:
        FastComposer (arXiv:2305.10431) and its run_training.sh: 150,000 steps of 128 pictures,
        AdamW 1e-5, 10 % without any condition and 10 % without faces, half of the steps inside the
        mask, localisation 0.001.
    """
    return TrainRecipe(
        name="fast_composer_sd15",
        base=BaseModelSettings(weights="random:sd15"),
        method=MethodSettings(kind="fast_composer"),
        losses=LossSettings(mse=0.5, masked=0.5, localise=0.001),
        drop=DropSettings(identity=0.1, text=0.0, both=0.1),
        optimiser=OptimiserSettings(learning_rate=1e-5, warmup_steps=500),
        scale=_EIGHT,
        steps=150_000,
        batch=128,
        microbatch=16,
        save_every=5000,
    )


def photo_verse_sd15() -> TrainRecipe:
    """Train PhotoVerse on Stable Diffusion 1.5: one node of eight GPUs, 512 px.

    No code was published. The rank of the LoRA, five words and the rate are of an open
    reimplementation, the drops, which guidance needs, are IP-Adapter's.

    References:
        PhotoVerse (arXiv:2309.05793): face loss 0.01, size of words 0.01, of values 0.001.
    """
    return TrainRecipe(
        name="photo_verse_sd15",
        base=BaseModelSettings(weights="random:sd15"),
        method=MethodSettings(kind="photo_verse", tokens=5, lora_rank=8, sparsity=0.01),
        losses=LossSettings(identity=0.01),
        optimiser=OptimiserSettings(warmup_steps=500),
        scale=_EIGHT,
        steps=60_000,
        batch=64,
        save_every=2000,
    )


def w_plus_sd15() -> TrainRecipe:
    """Train a W+ adapter on Stable Diffusion 1.5: one node of eight GPUs, 512 px.

    The number of steps is ours: the published run is 600 epochs of its own corpus at most.

    References:
        W+ Adapter (arXiv:2311.17461) and its train_wild.sh: 128 pictures, AdamW 1e-4, weight decay
        0.01, 5 % each of dropped identity, text, both.
    """
    return TrainRecipe(
        name="w_plus_sd15",
        base=BaseModelSettings(weights="random:sd15"),
        method=MethodSettings(kind="w_plus"),
        optimiser=OptimiserSettings(warmup_steps=500),
        scale=_EIGHT,
        steps=100_000,
        batch=128,
        microbatch=16,
        save_every=2000,
    )


ADAPTER_RECIPES = (consistent_id_sd15, fast_composer_sd15, photo_verse_sd15, w_plus_sd15)
