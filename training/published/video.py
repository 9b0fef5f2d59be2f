"""Runs that train methods on bases of videos."""

from dataclasses import replace

from training.settings import (
    BaseModelSettings,
    DataSettings,
    DropSettings,
    LossSettings,
    MethodSettings,
    OptimiserSettings,
    Scale,
    TrainRecipe,
    VideoSettings,
)


def video_tiny() -> TrainRecipe:
    """Train ID-Animator on a tiny random base of videos, on a CPU in two minutes."""
    return TrainRecipe(
        name="video_tiny",
        base=BaseModelSettings(weights="random:tiny-animatediff", beta_schedule="linear"),
        method=MethodSettings(kind="id_animator"),
        optimiser=OptimiserSettings(learning_rate=1e-3),
        steps=60,
        batch=4,
        microbatch=4,
        save_every=30,
        log_every=10,
    )


def id_animator_sd15_8xh200() -> TrainRecipe:
    """Train ID-Animator on AnimateDiff for Stable Diffusion 1.5: one node of eight H200.

    Clips of 16 frames of 512 px, captions of the person and of what they do. No training code was
    published: rate, drops and LoRA are IP-Adapter's, the adapter begins fresh, and the number of
    steps is ours.

    References:
        ID-Animator (arXiv:2404.15275): 16 tokens, the adapter alone trained; IP-Adapter
        (arXiv:2308.06721): AdamW 1e-4, 5 % each of dropped identity, text, both.
    """
    return TrainRecipe(
        name="id_animator_sd15_8xh200",
        base=BaseModelSettings(weights="random:animatediff-sd15", beta_schedule="linear"),
        method=MethodSettings(kind="id_animator", tokens=16, lora_rank=128),
        optimiser=OptimiserSettings(warmup_steps=500, ema_decay=0.9999),
        scale=Scale(
            workers=8, use_gpu=True, zero_stage=1, precision="bf16", gradient_checkpointing=True
        ),
        steps=50_000,
        batch=32,
        microbatch=4,
        save_every=2000,
    )


def personal_video_animatediff() -> TrainRecipe:
    """Learn one person for AnimateDiff from photographs, by what is drawn: one GPU.

    The preference among frames needs a scorer, whose weights no recipe can bring: with HPSv2's add
    --losses.reward_scorer file:<folder> --losses.reward_semantic 1. Rank, rate and steps are ours:
    the paper's code is not published.

    References:
        PersonalVideo (arXiv:2411.17048): spatial attention alone, the last quarter of the drawing,
        no reconstruction, 50 prompts.
    """
    return TrainRecipe(
        name="personal_video_animatediff",
        base=BaseModelSettings(weights="random:animatediff-sd15", beta_schedule="linear"),
        method=MethodSettings(kind="personal_video", lora_rank=16),
        losses=LossSettings(mse=0.0, reward=1.0),
        video=VideoSettings(frames=16, late_share=0.25),
        drop=DropSettings(identity=0.0, text=0.0, both=0.0),
        scale=Scale(use_gpu=True, precision="bf16", gradient_checkpointing=True),
        steps=500,
        batch=1,
        microbatch=1,
    )


def magic_id_cogvideox_2b() -> TrainRecipe:
    """Learn one person for CogVideoX 2B from pairs of better and worse videos: one GPU.

    First tune it on the person's own videos (--losses.mse 1 --losses.dpo 0), draw candidates with
    the tuned model and with the base, and make pairs of them (training.preferences.prefer); then
    this, from where that ended (--method.start file:<export>). Rank, rate and steps are ours: no
    code is published.

    References:
        MagicID (arXiv:2503.12689), on HunyuanVideo: static videos first, then the frontier;
        Diffusion-DPO (arXiv:2311.12908): beta 5000.
    """
    return TrainRecipe(
        name="magic_id_cogvideox_2b",
        base=BaseModelSettings(
            weights="random:cogvideox-2b",
            prediction="v_prediction",
            zero_snr=True,
            snr_shift=3.0,
        ),
        method=MethodSettings(kind="magic_id", lora_rank=64),
        losses=LossSettings(mse=0.0, dpo=1.0),
        drop=DropSettings(identity=0.0, text=0.0, both=0.0),
        optimiser=OptimiserSettings(learning_rate=2e-5, warmup_steps=20),
        scale=Scale(use_gpu=True, precision="bf16", gradient_checkpointing=True),
        steps=1000,
        batch=2,
        microbatch=1,
        save_every=200,
    )


def proteus_id_cogvideox_5b_8xh200() -> TrainRecipe:
    """Train Proteus-ID on CogVideoX-5B-I2V, all of it: one node of eight H200.

    Clips of 49 frames of 480 x 720 at 8 fps, with flow, captions of the person alone and states of
    5 layers of an image encoder. ZeRO 3 is ours: 8.8 billion weights are trained.

    References:
        Proteus-ID (arXiv:2506.23729) and its train_multi_node.sh: vectors as they are, AdamW 3e-6,
        2 clips on each GPU, 8,000 steps, the reference always another moment, half of the samples'
        loss inside the face, lambda 1; noise on the reference and 5 % without it, as in ConsisID,
        on whose code it is built.
    """
    return TrainRecipe(
        name="proteus_id_cogvideox_5b_8xh200",
        base=BaseModelSettings(
            weights="random:cogvideox-5b-i2v", prediction="v_prediction", zero_snr=True
        ),
        method=MethodSettings(kind="proteus_id", identity_norm="raw"),
        losses=LossSettings(mse=0.0, masked=1.0, motion=1.0),
        video=VideoSettings(mask_share=0.5, reference_noise=True, reference_dropout=0.05),
        drop=DropSettings(identity=0.0, text=0.0, both=0.0),
        optimiser=OptimiserSettings(learning_rate=3e-6, warmup_steps=200, schedule="cosine"),
        scale=Scale(
            workers=8, use_gpu=True, zero_stage=3, precision="bf16", gradient_checkpointing=True
        ),
        steps=8000,
        batch=16,
        microbatch=2,
        save_every=250,
    )


def consis_id_cogvideox_5b_8xh200() -> TrainRecipe:
    """Train ConsisID on CogVideoX-5B-I2V as published, all of it: one node of eight H200.

    Clips of 49 frames of 480 x 720 at 8 fps, with masks of faces and states of 5 layers of
    EVA02-CLIP-L. Rates are of AdamW's usual moments (the original has 0.95 for the second), the
    cosine is one, and the rate is the same for all weights. Name the weights of the base:
    --base.weights file:<folder of the pipeline>

    References:
        ConsisID (arXiv:2411.17440) and its train scripts: batch of 80, about 1,800 steps, 3e-6,
        200 of warm-up, half of the samples' loss inside the face, half with a reference of another
        moment, noise on it, 5 % without; ZeRO 2, bf16.
    """
    return TrainRecipe(
        name="consis_id_cogvideox_5b_8xh200",
        data=DataSettings(cross_share=0.5),
        base=BaseModelSettings(
            weights="random:cogvideox-5b-i2v", prediction="v_prediction", zero_snr=True
        ),
        method=MethodSettings(kind="consis_id", identity_norm="raw"),
        losses=LossSettings(mse=0.0, masked=1.0),
        video=VideoSettings(
            mask_share=0.5, reference_noise=True, reference_dropout=0.05, tiled=True
        ),
        drop=DropSettings(identity=0.0, text=0.0, both=0.0),
        optimiser=OptimiserSettings(learning_rate=3e-6, warmup_steps=200, schedule="cosine"),
        scale=Scale(
            workers=8, use_gpu=True, zero_stage=2, precision="bf16", gradient_checkpointing=True
        ),
        steps=1800,
        batch=80,
        microbatch=2,
        save_every=200,
    )


def consis_id_local_cogvideox_5b() -> TrainRecipe:
    """Train what ConsisID adds to CogVideoX-5B-I2V, its local extractor, and no more: one GPU.

    592 of 6,162 million weights. Ten times the rate of the whole, as the original's option gives
    to its cross-attentions; batch and steps are ours.
    """
    whole = consis_id_cogvideox_5b_8xh200()
    return replace(
        whole,
        name="consis_id_local_cogvideox_5b",
        video=replace(whole.video, trained="added"),
        optimiser=replace(whole.optimiser, learning_rate=3e-5),
        scale=Scale(use_gpu=True, precision="bf16", gradient_checkpointing=True),
        batch=16,
        microbatch=1,
    )


VIDEO_RECIPES = (
    video_tiny,
    id_animator_sd15_8xh200,
    personal_video_animatediff,
    magic_id_cogvideox_2b,
    proteus_id_cogvideox_5b_8xh200,
    consis_id_cogvideox_5b_8xh200,
    consis_id_local_cogvideox_5b,
)
