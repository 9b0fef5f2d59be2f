"""FastComposer: each reference face is fused into a word of the prompt.

Shapes: B samples; F reference faces, P states of width I of each image; T text tokens of width E;
N pixels of a layer.
"""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.features import Features
from training.methods.faceid_conditions import Given
from training.methods.on_attention import AttentionAdapter, Told
from training.nets.attention_maps import Told as Noted
from training.nets.cross_attention import CrossAttention
from training.nets.face_states import check_image
from training.nets.fast_composer import WEIGHTS, LearntKeysAndValues, shares_of_tokens
from training.nets.references import seeded
from training.nets.tuning import tune
from training.nets.words import WordFuser, Words, spoken
from training.objectives.step import Gives
from training.settings import TrainRecipe

PHRASE, WORD = "a photo of a person", "person"
_ENCODER = "image_encoder.{}"
"""What the original calls the layers that follow the image encoder's last block."""


class FastComposer(AttentionAdapter):
    """Train what fuses faces into words, and the keys and values that read these, on a frozen base.

    A face's embedding, made of the image encoder's class state, is fused into the word "person",
    which is added to the prompt's states once per face: prompts are prepared as states, where
    nobody knows which token names whom, as the original's captions do. Nobody is the plain word.

    The original trains all of the UNet, and the last two blocks of the image encoder. Here keys
    and values alone learn, beside the base's own: so the base stays as it is and an export is
    small; of the image encoder its last norm and projection are learnt, on prepared states.

    Draw with ``Sampling.start_step`` at 20 to 40 % of the steps: the text then decides the
    composition before the faces come in (delayed subject conditioning). Train with
    ``losses.localise``, or faces of several people blend. Identity vectors are looked at only to
    tell who is there.

    References:
        Xiao et al., "FastComposer: Tuning-Free Multi-Subject Image Generation with Localized
        Attention", arXiv:2305.10431; fastcomposer/model.py of its code.
    """

    file: ClassVar[str] = "fastcomposer.safetensors"
    modules_beside: ClassVar[tuple[str, ...]] = ("object_norm", "object_projection", "fuser")

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        super().__init__(recipe, features, folder)
        check_image(features, "fast_composer")
        self.words = Words(features, folder, PHRASE, (WORD,), "fast_composer")
        width, image_width = self.unet.config.cross_attention_dim, features.image_shape[1]
        self.object_norm, self.object_projection, self.fuser = seeded(
            lambda: (
                nn.LayerNorm(image_width),
                nn.Linear(image_width, width, bias=False),
                WordFuser(width),
            ),
            recipe.seed,
        )
        self.attention = CrossAttention(
            self.unet, recipe.base.weights, LearntKeysAndValues, WEIGHTS
        )
        tune(self.unet, recipe.scale)

    def _save_more(self, folder: Path) -> None:
        self.words.save(folder)

    def _cross(self, given: Given) -> Told:
        """Return text with a word per face after it; the text as it is at strength 0."""
        scale = self.attention.scale
        if not scale:
            return given.text
        return torch.cat([given.text, self._fused(given, scale)], dim=1)

    def _fused(self, given: Given, scale: float) -> Float[Tensor, "B F E"]:
        """Return the word with each face in it."""
        whole = self._images(given)[..., 0, :]
        faces = self.object_projection(self.object_norm(whole))[..., None, :]
        words = self.words.states
        fused = self.fuser(words.expand_as(faces), faces)
        return spoken(words, fused, self._present(given), scale)

    def _gives(self) -> Gives:
        width = self.unet.config.cross_attention_dim
        return replace(super()._gives(), residuals=False, embed=width, vector=False)

    def _embed(self, given: Given) -> Float[Tensor, "B F E"]:
        return self._fused(given, 1.0).float()

    def _attended(self, told: Noted, given: Given) -> Float[Tensor, "B N F"]:
        """Say how much of a layer's attention each face's word has, in cross-attention."""
        assert told.states is not None
        assert told.text is not None
        shares = shares_of_tokens(told.layer, told.states, told.text)
        return shares[..., -given.faces.shape[1] :]

    def _names(self) -> dict[str, str]:
        ours = {
            f"unet.{name}": f"unet.{name.replace('.processor', '')}"
            for name in self.attention.weights()
        }
        norm = _ENCODER.format("vision_model.post_layernorm")
        ours |= {f"object_norm.{kind}": f"{norm}.{kind}" for kind in ("weight", "bias")}
        ours["object_projection.weight"] = _ENCODER.format("visual_projection.weight")
        fuser = WordFuser.published_names()
        return ours | {f"fuser.{name}": f"postfuse_module.{fuser[name]}" for name in fuser}
