"""W+ adapter: identity as styles of many layers, which what text made of a picture attends to.

Shapes: B samples; F reference faces; N pixels of a layer; E the text's width.
"""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from training.features import Features
from training.methods.faceid_conditions import Given
from training.methods.on_attention import AttentionAdapter, Told
from training.nets.attention_maps import Told as Noted
from training.nets.cross_attention import CrossAttention
from training.nets.references import seeded
from training.nets.tuning import tune
from training.nets.w_plus import (
    STYLE_DIM,
    WEIGHTS,
    LatentMapper,
    LatentTokens,
    ResidualCrossAttention,
)
from training.objectives.step import Gives
from training.settings import TrainRecipe


class WPlusAdapter(AttentionAdapter):
    """Train a mapper to W+'s shape, its tokens and residual cross-attention on a frozen base.

    The original inverts photographs into the W+ of a StyleGAN, so that a face can be edited along
    its directions, and holds these latents away from the background with two more losses. That
    needs StyleGAN's weights; here an identity vector is mapped to a space of the same shape, learnt
    from nothing, and all is trained at once instead of in two stages.

    The export holds the published part as the original names it, ``w_proj`` and ``wplus_adapter``,
    and the mapper beside it. A narrow base has narrower styles: twice its width, up to 512.

    References:
        Li et al., "When StyleGAN Meets Stable Diffusion: a W+ Adapter for Personalized Image
        Generation", arXiv:2311.17461, and train_wild.py of its code.
    """

    file: ClassVar[str] = "wplus_adapter.safetensors"
    modules_beside: ClassVar[tuple[str, ...]] = ("mapper", "tokens")

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        super().__init__(recipe, features, folder)
        width = self.unet.config.cross_attention_dim
        style_dim = min(STYLE_DIM, 2 * width)
        self.mapper, self.tokens = seeded(
            lambda: (
                LatentMapper(features.identity_dim, style_dim),
                LatentTokens(style_dim, width),
            ),
            recipe.seed,
        )
        self.attention = CrossAttention(
            self.unet, recipe.base.weights, ResidualCrossAttention, WEIGHTS
        )
        tune(self.unet, recipe.scale)

    def _cross(self, given: Given) -> Told:
        """Return text, and the tokens of each face's styles."""
        return given.text, [self._latents(given)]

    def _latents(self, given: Given) -> Float[Tensor, "B F 4 E"]:
        """Return the tokens of each face's styles."""
        tokens: Tensor = self.tokens(self.mapper(given.faces, self._present(given)))
        return tokens

    def _gives(self) -> Gives:
        """Say what losses may look at.

        Identity comes after text's attention, not beside it: its tokens are asked alone, by other
        queries, and have all of that attention, everywhere.
        """
        width = self.unet.config.cross_attention_dim
        return replace(super()._gives(), attention=False, embed=width)

    def _embed(self, given: Given) -> Float[Tensor, "B tokens E"]:
        return self._latents(given).flatten(1, 2).float()

    def _residual(
        self, told: Noted
    ) -> tuple[Float[Tensor, "B N width"], Float[Tensor, "B N width"]]:
        """Return what the latents add to a layer's stream, and the stream."""
        assert told.stream is not None
        processor, given = told.layer.processor, (told.states, told.text, told.tokens)
        return processor.added(told.layer, *given), told.stream

    def _names(self) -> dict[str, str]:
        names = self.attention.published_names("wplus_adapter", {name: name for name in WEIGHTS})
        ours = {f"unet.{name}": theirs for name, theirs in names.items()}
        ours |= {f"tokens.{name}": f"w_proj.{name}" for name in self.tokens.state_dict()}
        return ours | {f"mapper.{name}": f"mapper.{name}" for name in self.mapper.state_dict()}
