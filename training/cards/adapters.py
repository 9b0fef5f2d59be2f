"""What the model card of an adapter with attention of its own says of loading it."""

from training.settings import TrainRecipe

ADAPTER_KINDS = {
    ("consistent_id", ""): "ConsistentID: a face and its parts in words, for a frozen base",
    ("fast_composer", ""): "FastComposer: faces in words of the prompt, for a frozen base",
    ("photo_verse", ""): "PhotoVerse: a person as words and as an image, for a frozen base",
    ("w_plus", ""): "W+ adapter: identity as styles of many layers, for a frozen base",
}

_FILES = {
    "consistent_id": (
        "consistentid.safetensors",
        "under the names of the published checkpoint. ConsistentID's pipeline takes them in three "
        "parts (`FacialEncoder`, `image_proj`, `adapter_modules`), its LoRA among the last, and "
        "wants one picture per part of the face",
    ),
    "fast_composer": (
        "fastcomposer.safetensors",
        "under the names that they have in FastComposer's model (`postfuse_module`, "
        "`image_encoder`, `unet`), which takes them with `strict=False`: it holds the rest",
    ),
    "photo_verse": (
        "photoverse.safetensors",
        "in four parts (`text_adapter`, `image_adapter`, and `attention` by the layer's number); "
        "no layout was published",
    ),
    "w_plus": (
        "wplus_adapter.safetensors",
        "under the names of the published checkpoint (`w_proj`, `wplus_adapter`), the mapper from "
        "vectors to styles beside them (`mapper`)",
    ),
}

_PARTS = """\
```python
from safetensors.torch import load_file

parts = {{}}
for name, weight in load_file(f"{{folder}}/{file}").items():
    part, _, rest = name.partition(".")
    parts.setdefault(part, {{}})[rest] = weight
```"""


def adapter_loading(recipe: TrainRecipe, visage: str) -> str:
    """Say how to load it, in code that runs.

    Args:
        recipe: What was trained.
        visage: How Visage draws with it, from vectors.
    """
    file, layout = _FILES[recipe.method.kind]
    if recipe.method.takes_image:
        visage = visage.replace(
            "(samples x numbers):",
            "(samples x numbers) and the image encoder's states of the face in `image` (samples x "
            "patches x width):",
        ).replace("Condition(identity)", "Condition(identity, image=image)")
    return f"{visage}\n\nWeights are in `{file}`, {layout}:\n\n{_PARTS.format(file=file)}"
