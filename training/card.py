"""The model card of an export: what it is, from what, for what, and how to load it."""

from collections.abc import Mapping

from infra.configuration import to_yaml
from training.cards.adapters import ADAPTER_KINDS, adapter_loading
from training.cards.research import RESEARCH_KINDS, research_loading
from training.cards.subject import SUBJECT_KINDS, subject_loading
from training.cards.video import VIDEO_KINDS, video_loading
from training.features import Features
from training.settings import TrainRecipe

NOT_MEASURED = "Not measured yet"
"""What a card says of scores until a release puts some there."""
_ENCODER_LICENCES = {
    "dlib": "CC0-1.0",
    "insightface": "non-commercial research only, unless a licence in the model pack says more",
}
_KINDS = (
    {
        ("base", "identity"): "a small diffusion model that learnt faces and identity together",
        ("base", "text"): "a small diffusion model of faces by captions, to put an adapter on",
        ("base", "none"): "a small diffusion model of faces, to put an identity adapter on",
        ("arc2face", ""): "Arc2Face: Stable Diffusion told a person in place of a prompt",
        ("instant_id", ""): "InstantID: identity tokens and a ControlNet for a frozen base",
        ("ip_adapter_faceid", "faceid"): "IP-Adapter-FaceID: identity tokens for a frozen base",
        ("ip_adapter_faceid", "plus"): (
            "IP-Adapter-FaceID-Plus: identity and image tokens for a frozen base"
        ),
        ("ip_adapter_faceid", "portrait"): (
            "IP-Adapter-FaceID-Portrait: identity tokens of several faces for a frozen base"
        ),
    }
    | ADAPTER_KINDS
    | RESEARCH_KINDS
    | SUBJECT_KINDS
    | VIDEO_KINDS
)

_BASES = {"base": "itself", "arc2face": "itself, which began as `{}`"}

_DRAW = """\
```python
from pathlib import Path

import torch

from training.build import load_export
from training.method import Condition, Sampling

method = load_export(Path(folder))
rng = torch.Generator().manual_seed(0)
pictures = method.generate(Condition(identity), rng, Sampling(steps=30, guidance=3.0))
```"""

_UNET = """\
```python
from diffusers import UNet2DConditionModel

unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", use_safetensors=True)
```"""

_ADAPTER = """\
```python
import torch

pipe.load_ip_adapter(
    folder,
    subfolder="",
    weight_name="ip-adapter-faceid.safetensors",
    image_encoder_folder=None,
)
nobody = torch.zeros_like(vectors)
faces = [torch.stack([nobody, vectors])]
```"""

_INSTANT_ID = """\
```python
from diffusers import ControlNetModel

controlnet = ControlNetModel.from_pretrained(
    folder, subfolder="ControlNetModel", use_safetensors=True
)
```

Keys, values and Resampler are in `ip-adapter.safetensors`, under the names of the published
`ip-adapter.bin`. InstantID's pipeline (`pipeline_stable_diffusion_xl_instantid` of diffusers'
community) takes them in two parts:

```python
from safetensors.torch import load_file

parts = {"image_proj": {}, "ip_adapter": {}}
for name, weight in load_file(f"{folder}/ip-adapter.safetensors").items():
    part, _, rest = name.partition(".")
    parts[part][rest] = weight
```"""

_ARC2FACE = """\
```python
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

unet = UNet2DConditionModel.from_pretrained(folder, subfolder="arc2face", use_safetensors=True)
encoder = CLIPTextModel.from_pretrained(folder, subfolder="encoder", use_safetensors=True)
```"""

_PLUS = """\
```python
projection = pipe.unet.encoder_hid_proj.image_projection_layers[0]
projection.clip_embeds = torch.stack([image_nobody, image])
projection.shortcut = {shortcut}
```"""


def card(
    recipe: TrainRecipe,
    features: Features,
    *,
    licences: Mapping[str, int] | None = None,
    scores: Mapping[str, str] | None = None,
) -> str:
    """Write a model card as Markdown.

    Args:
        recipe: What was trained.
        features: On what.
        licences: Of the corpus' pictures, with how many of each; by default what the features say.
        scores: Of an evaluation, by name, as they are to be read.
    """
    method = recipe.method
    variant = {"base": method.condition, "ip_adapter_faceid": method.variant}.get(method.kind, "")
    base = _BASES.get(method.kind, "`{}`").format(recipe.base.weights)
    rights = features.licences if licences is None else licences
    told = [f"{count} {name or 'not stated'}" for name, count in sorted(rights.items())]
    encoder = _ENCODER_LICENCES.get(features.backend, "not stated")
    sections = [
        f"# {recipe.name}\n\n{_KINDS[method.kind, variant][0].upper()}"
        f"{_KINDS[method.kind, variant][1:]}. Made with Visage.",
        "## What it is made of\n\n"
        f"* Base model: {base}\n"
        f"* Corpus: digest `{features.corpus}`; licences of its pictures: "
        f"{', '.join(told) or 'not stated'}\n"
        f"* Identity encoder: `{features.embedder}` ({features.backend}), "
        f"{features.identity_dim} numbers; its licence: {encoder}\n"
        f"* Codec: `{features.codec}`; text encoder: `{features.text_encoder or 'none'}`; "
        f"image encoder: `{features.image_encoder or 'none'}`\n"
        f"* Pictures: {features.image_px} px",
        "## Scores\n\n"
        + (_table(scores) if scores else f"{NOT_MEASURED}: `visage release` puts scores here."),
        "## What it is for\n\n"
        "Drawing people who agreed to it, and research on identity in generative models. Not for "
        "pictures of people without their consent, for deceiving anybody about who did or said "
        "what, for sexual or degrading content, nor for recognising or tracking people. It keeps "
        "the biases of its corpus and its encoder: people whom these serve badly are kept less "
        "well. Say that a picture is generated where it is shown.",
        "## How to load it\n\n" + _loading(recipe),
        f"## Recipe\n\n```yaml\n{to_yaml(recipe)}```",
    ]
    return "\n\n".join(sections) + "\n"


def _loading(recipe: TrainRecipe) -> str:
    """Say how to load it, in code that runs."""
    method = recipe.method
    if (method.kind, "") in SUBJECT_KINDS:
        return subject_loading(recipe)
    if (method.kind, "") in VIDEO_KINDS:
        return video_loading(recipe)
    visage = f"In Visage, with raw `identity` vectors (samples x numbers):\n\n{_DRAW}"
    if (method.kind, "") in ADAPTER_KINDS:
        return adapter_loading(recipe, visage)
    if (method.kind, "") in RESEARCH_KINDS:
        return research_loading(recipe, visage)
    if method.kind == "base":
        return f"{visage}\n\nThe network alone, in diffusers:\n\n{_UNET}"
    if method.kind == "arc2face":
        return (
            f"{visage}\n\nBoth networks, in diffusers and transformers, for Arc2Face's own "
            f"pipeline, which takes vectors {_NORMS[method.identity_norm]}:\n\n{_ARC2FACE}"
        )
    if method.kind == "instant_id":
        return (
            f"{visage}\n\nIdentityNet, in diffusers; vectors are used "
            f"{_NORMS[method.identity_norm]}:\n\n{_INSTANT_ID}"
        )
    plus = ""
    if method.variant == "plus":
        visage = visage.replace("Condition(identity)", "Condition(identity, image=image)")
        plus = (
            "\n\nThen give it the image encoder's states (faces x patches x width) of the faces, "
            f"and of an empty picture:\n\n{_PLUS.format(shortcut=method.shortcut)}"
        )
    return (
        f"{visage}\n\nIn diffusers, on a pipeline `pipe` of the base, with `vectors` of one person "
        f"(faces x numbers), {_NORMS[method.identity_norm]}:\n\n{_ADAPTER}{plus}\n\n"
        "Then give `ip_adapter_image_embeds=faces` to the pipeline."
    )


_NORMS = {
    "raw": "as the encoder gives them",
    "unit": "brought to unit length",
    "standard": "less `identity_mean`, by `identity_std` of features.json",
}


def _table(scores: Mapping[str, str]) -> str:
    rows = [f"| {name} | {value} |" for name, value in scores.items()]
    return "\n".join(["| score | value |", "|---|---|", *rows])
