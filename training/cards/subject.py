"""What the model card of a per-subject export says of loading it."""

from training.settings import TrainRecipe

SUBJECT_KINDS = {
    ("dis_booth", ""): "a LoRA that draws one person apart from poses and places (DisenBooth)",
    ("lora", ""): "a LoRA that draws one person, for a frozen base",
    ("pva", ""): "a face for a hole in a picture, for a frozen inpainting base (PVA)",
    ("sefi_ide", ""): "a word for one person, with a meaning for each stage (SeFi-IDE)",
    ("stable_identity", ""): "a name of two tokens for one person (StableIdentity)",
}

_DRAW = """\
```python
from pathlib import Path

import torch

from training.build import load_export
from training.method import Condition, Sampling

method = load_export(Path(folder))
rng = torch.Generator().manual_seed(0)
nobody = torch.zeros(1, method.features.identity_dim)  # one row per picture
pictures = method.generate(Condition(nobody), rng, Sampling(steps=30, guidance=7.5))
```"""

_LORA = """\
```python
pipe.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors")
```"""

_WORD = """\
```python
pipe.load_textual_inversion(folder, weight_name="learned_embeds.safetensors")
```"""

_STAGES = """\
```python
from pathlib import Path

for word in sorted(Path(folder).glob("word-*.safetensors")):
    pipe.load_textual_inversion(folder, weight_name=word.name)
```

Each fifth of the schedule has a word for the keys of cross-attention and one for its values, from
`{word}-key-0` at the clean end to `{word}-value-4`."""


_PAINT = """\
```python
from pathlib import Path

import torch

from training.build import load_export
from training.method import Condition, Sampling

method = load_export(Path(folder))
rng = torch.Generator().manual_seed(0)
asked = Condition(identity, source=source, mask=mask)
pictures = method.generate(asked, rng, Sampling(steps=30, guidance=3.0))
```"""

_INPAINT = """\
```python
pipe.load_ip_adapter(
    folder,
    subfolder="",
    weight_name="ip-adapter-faceid.safetensors",
    image_encoder_folder=None,
)
```"""


def subject_loading(recipe: TrainRecipe) -> str:
    """Say how to load it, in code that runs."""
    method = recipe.method
    if method.kind == "pva":
        return (
            "In Visage, with raw `identity` vectors (samples x numbers), the latents of pictures "
            "as `source` (samples x channels x rows x columns) and a `mask` (samples x rows x "
            f"columns) that is 1 where to paint:\n\n{_PAINT}\n\n"
            f"In diffusers, on an inpainting pipeline `pipe` of the base:\n\n{_INPAINT}\n\n"
            "Then give the vectors as `ip_adapter_image_embeds`, as to IP-Adapter-FaceID."
        )
    asked = method.prompt.format(method.subject_word)
    loading = {"stable_identity": _WORD, "sefi_ide": _STAGES}.get(method.kind, _LORA)
    loading = loading.replace("{word}", method.subject_word)
    return (
        f"In Visage, where without text it draws `{asked}`:\n\n{_DRAW}\n\n"
        f"In diffusers, on a pipeline `pipe` of the base:\n\n{loading}\n\n"
        f"Then ask for `{method.subject_word}` in the prompt."
    )
