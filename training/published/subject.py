"""Runs that learn one person each; name whom with --data.subject."""

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
)

KEPT = DropSettings(identity=0.0, text=0.0, both=0.0)
"""Nothing is dropped: who it is is in the weights."""


def lora_sd15() -> TrainRecipe:
    """Learn one person as a LoRA on Stable Diffusion 1.5, DreamBooth's way: one GPU, minutes.

    References:
        DreamBooth (arXiv:2208.12242): a rare word and its class, as many class pictures as own
        ones; train_dreambooth_lora.py of diffusers: rank 4, AdamW 1e-4, 500 steps of one picture
        and one of the class.
    """
    return TrainRecipe(
        name="lora_sd15",
        data=DataSettings(prior_share=0.5),
        base=BaseModelSettings(weights="random:sd15"),
        method=MethodSettings(kind="lora", lora_rank=4),
        losses=LossSettings(prior=1.0),
        drop=KEPT,
        scale=Scale(use_gpu=True, precision="bf16"),
        steps=500,
        batch=2,
        microbatch=2,
    )


def dis_booth_sd15() -> TrainRecipe:
    """Learn one person apart from poses and places, on Stable Diffusion 1.5: one GPU.

    References:
        DisenBooth (arXiv:2305.03374) and its train_disenbooth.py: rank 4, AdamW 1e-4, 2,000 steps
        of one picture, 0.01 of weak denoising and 0.001 of the cosine, no class pictures. The
        paper's base is Stable Diffusion 2.1.
    """
    return replace(
        lora_sd15(),
        name="dis_booth_sd15",
        data=DataSettings(),
        method=MethodSettings(kind="dis_booth", lora_rank=4),
        losses=LossSettings(contrastive_disentangle=0.01),
        steps=2000,
        batch=1,
        microbatch=1,
    )


def stable_identity_sd15() -> TrainRecipe:
    """Learn one person as a name of two tokens, on Stable Diffusion 1.5: one GPU, minutes.

    References:
        StableIdentity (arXiv:2401.15975): AdamW 5e-5, 450 steps, the face alone compared, of one
        photograph. The paper's base is Stable Diffusion 2.1.
    """
    return replace(
        lora_sd15(),
        name="stable_identity_sd15",
        data=DataSettings(),
        method=MethodSettings(
            kind="stable_identity",
            tokens=2,
            prompt="a photo of {}",
            subject_word="<person>",
            class_word="a person",
        ),
        losses=LossSettings(mse=0.0, masked=1.0),
        optimiser=OptimiserSettings(learning_rate=5e-5),
        steps=450,
        batch=1,
        microbatch=1,
    )


def sefi_ide_sd15() -> TrainRecipe:
    """Learn one person as a word with five stages, on Stable Diffusion 1.5: one GPU, minutes.

    References:
        SeFi-IDE (arXiv:2402.00631): AdamW 5e-3, five stages of two features, of one photograph.
        The number of steps is ours: start there, and look at what is drawn.
    """
    return replace(
        stable_identity_sd15(),
        name="sefi_ide_sd15",
        method=MethodSettings(kind="sefi_ide", tokens=1, subject_word="<person>"),
        losses=LossSettings(),
        optimiser=OptimiserSettings(learning_rate=5e-3, weight_decay=0.0),
        steps=1000,
    )


def pva_sd15() -> TrainRecipe:
    """Tune what paints faces into holes to one person: one GPU, a minute.

    Name the base, an inpainting one (--base.weights), and the export of a run of this recipe over
    many people (--method.start), which itself is made with --data.subject "" and more steps.

    References:
        PVA (arXiv:2312.03556): 40 steps for each person. Learning rate and batch are ours.
    """
    return TrainRecipe(
        name="pva_sd15",
        base=BaseModelSettings(weights=""),
        method=MethodSettings(kind="pva"),
        scale=Scale(use_gpu=True, precision="bf16"),
        steps=40,
        batch=4,
        microbatch=4,
    )


SUBJECT_RECIPES = (lora_sd15, dis_booth_sd15, stable_identity_sd15, sefi_ide_sd15, pva_sd15)
