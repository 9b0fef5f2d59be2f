"""What the model card of a method on a base of videos says of loading it."""

from training.settings import TrainRecipe

VIDEO_KINDS = {
    ("id_animator", ""): "ID-Animator: attention to a face for a frozen AnimateDiff",
    ("consis_id", ""): "ConsisID: a face as low and as high frequencies, in CogVideoX",
    ("proteus_id", ""): "Proteus-ID: a face fused with words and told at each time, in CogVideoX",
    ("personal_video", ""): "a LoRA that draws videos of one person (PersonalVideo)",
    ("magic_id", ""): "a LoRA that draws videos of one person (MagicID)",
}

_DRAW = """\
```python
from pathlib import Path

import torch

from training.build import load_export
from training.method import Condition, Sampling

method = load_export(Path(folder))
rng = torch.Generator().manual_seed(0)
videos = method.generate({asked}, rng, Sampling(steps=30, guidance={guidance}))
```"""

_TOLD = {
    "id_animator": (
        "raw `identity` vectors (samples x numbers) and the image encoder's states of the "
        "reference faces, `image` (samples x patches x width)",
        "Condition(identity, image=image)",
    ),
    "consis_id": (
        "raw `identity` vectors (samples x numbers) and what else was prepared of the reference "
        "faces by the names of a batch, `more`",
        "Condition(identity, more=more)",
    ),
    "proteus_id": (
        "raw `identity` vectors (samples x numbers) and what else was prepared of the reference "
        "faces by the names of a batch, `more`",
        "Condition(identity, more=more)",
    ),
}
_NOBODY = (
    "the person in its weights: `identity` only says how many videos there are to be",
    "Condition(identity)",
)

_IP_ADAPTER = """\
```python
import torch

pipe.load_ip_adapter(
    folder,
    subfolder="",
    weight_name="id-animator.safetensors",
    image_encoder_folder=None,
)
faces = [torch.stack([image_nobody, image])]
```"""
_CONSIS_ID = """\
```python
from diffusers import ConsisIDPipeline

pipe = ConsisIDPipeline.from_pretrained(folder, use_safetensors=True)
```"""
_LORA = """\
```python
pipe.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors")
```"""

_LATE_LORA = """\
```python
pipe.load_lora_weights(
    folder, weight_name="pytorch_lora_weights.safetensors", adapter_name="subject"
)
share = {late_share}  # of the drawing, its last


def use(step):
    is_late = pipe.scheduler.timesteps[step] < 1000 * share if step else share == 1
    pipe.set_adapters(["subject"], [float(is_late)])


def late(pipe, step, t, kept):
    use(step + 1) if step + 1 < len(pipe.scheduler.timesteps) else use(0)
    return kept


use(0)
```"""


def video_loading(recipe: TrainRecipe) -> str:
    """Say how to load it, in code that runs."""
    kind = recipe.method.kind
    told, asked = _TOLD.get(kind, _NOBODY)
    draw = _DRAW.format(asked=asked, guidance=7.5 if kind == "id_animator" else 6.0)
    elsewhere = _ELSEWHERE[kind].replace("{late_share}", str(recipe.video.late_share))
    return f"In Visage, with {told}:\n\n{draw}\n\n{elsewhere}"


_ELSEWHERE = {
    "id_animator": (
        "In diffusers, on an AnimateDiffPipeline `pipe` of the base, with the states of a face and "
        f"of an empty picture (1 x patches x width):\n\n{_IP_ADAPTER}\n\n"
        "Then give `ip_adapter_image_embeds=faces` to the pipeline."
    ),
    "consis_id": (
        "In diffusers, where text was prepared with the codec and text encoder of CogVideoX:\n\n"
        f"{_CONSIS_ID}\n\nThen give it `id_cond`, the vectors and the face encoder's of unit "
        "length side by side, and `id_vit_hidden`, a list of its states by layer."
    ),
    "proteus_id": (
        "Weights are in `proteus-id.safetensors`, under the names that they have in the original's "
        "transformer (`ProteusIDTransformer3DModel`), which takes them with `strict=False`."
    ),
    "personal_video": (
        f"In diffusers, on an AnimateDiffPipeline `pipe` of the base:\n\n{_LATE_LORA}\n\n"
        "Then give `callback_on_step_end=late` to the pipeline, whose scheduler has trailing times."
    ),
    "magic_id": f"In diffusers, on a pipeline `pipe` of the base:\n\n{_LORA}",
}
