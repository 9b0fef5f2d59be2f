"""PhotoVerse: a person as words beside the prompt, and as an image beside the words.

Shapes: B samples; F reference faces; T text tokens of width E, W of a face; N pixels of a layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from training.features import Features
from training.method import Batch
from training.methods.faceid_conditions import Given, dropped
from training.methods.on_attention import AttentionAdapter, Told
from training.nets.attention_maps import Told as Noted
from training.nets.attention_maps import Watched
from training.nets.cross_attention import CrossAttention
from training.nets.face_states import check_image
from training.nets.photo_verse import WEIGHTS, FusedAttention, ImageWords, fusion
from training.nets.references import seeded
from training.nets.tuning import tune
from training.noise import Noised
from training.objectives.step import Gives
from training.settings import TrainRecipe

_LIGHTER = 0.1
"""Weight of the image branch's values beside that of the words, as published: 0.001 and 0.01."""


class PhotoVerse(AttentionAdapter):
    """Train both branches and a LoRA on the text's keys and values, on a frozen base.

    The pseudo-words join the prompt's states after its last token, as states: the original puts
    them into a prompt before the text encoder, which would then run in every step. It reads five
    layers of the image encoder; one is prepared, and all words are made from it. An absent face
    has words and tokens of zeros.

    In training, branches are left out at random (``training.nets.photo_verse.fusion``); pictures
    are drawn with both. ``losses.identity`` is the face loss of the paper, 0.01 there.

    References:
        Chen et al., "PhotoVerse: Tuning-Free Image Customization with Text-to-Image Diffusion
        Models", arXiv:2309.05793. No code was published.
    """

    file: ClassVar[str] = "photoverse.safetensors"
    modules_beside: ClassVar[tuple[str, ...]] = ("text_adapter", "image_adapter")

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        super().__init__(recipe, features, folder)
        check_image(features, "photo_verse")
        width, tokens = self.unet.config.cross_attention_dim, recipe.method.tokens

        def branch() -> ImageWords:
            return ImageWords(features.image_shape[1], tokens, width)

        self.text_adapter, self.image_adapter = seeded(lambda: (branch(), branch()), recipe.seed)
        self.attention = CrossAttention(
            self.unet,
            recipe.base.weights,
            FusedAttention,
            WEIGHTS,
            lora_rank=recipe.method.lora_rank,
            lora_parts=("to_k", "to_v"),
            lora_on_self=False,
            seed=recipe.seed,
        )
        self._shares: Tensor | None = None
        tune(self.unet, recipe.scale)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms, with the size of words and values where it weighs."""
        with self._fused(batch["drop"]):
            losses = super().forward(batch)
        if weight := self.recipe.method.sparsity:
            words, values = self._sizes(self._told(batch))
            total = losses["loss"] + weight * (words + _LIGHTER * values)
            losses |= {"loss": total, "words": words.detach(), "values": values.detach()}
        return losses

    def _cross(self, given: Given) -> Told:
        """Return text with the words after it, and the image's tokens with both branches' shares.

        At strength 0 there are no words: the base is told the prompt as it is.
        """
        words, tokens = self._made(given)
        text, shares = given.text, self._shares
        if scale := self.attention.scale:
            text = torch.cat([text, scale * words.flatten(1, 2)], dim=1)
        if shares is None:
            shares = text.new_ones(len(text), 2)
        return text, [tokens, shares]

    def _made(self, given: Given) -> tuple[Float[Tensor, "B F W E"], Float[Tensor, "B F W E"]]:
        """Return words and tokens of each face."""
        image, there = self._images(given), self._present(given)[..., None, None]
        return self.text_adapter(image) * there, self.image_adapter(image) * there

    def _sizes(self, given: Given) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the mean absolute number of the words, and of the image branch's values."""
        words, tokens = self._made(given)
        processors: dict[str, Any] = self.unet.attn_processors
        named = self.attention.attention[1::2]
        tokens = tokens.to(self.unet.dtype)
        values = [processors[name].to_v_ip[0](tokens).float().abs().mean() for name in named]
        return words.float().abs().mean(), torch.stack(values).mean()

    @contextmanager
    def _fused(self, draw: Float[Tensor, " B"]) -> Iterator[None]:
        """Let branches count as this draw says, in training, while the context lasts.

        Validation asks for no gradients: it has both branches, as pictures have.
        """
        learns = self.training and torch.is_grad_enabled()
        self._shares = fusion(draw, self.recipe.drop) if learns else None
        try:
            yield
        finally:
            self._shares = None

    def _gives(self) -> Gives:
        width = self.unet.config.cross_attention_dim
        return replace(super()._gives(), embed=width, vector=False)

    def _embed(self, given: Given) -> Float[Tensor, "B FW E"]:
        words, _ = self._made(given)
        return words.flatten(1, 2).float()

    def _shown(self, batch: Batch, noised: Noised, given: Given, seen: Watched) -> dict[str, Any]:
        shown = super()._shown(batch, noised, given, seen)
        if self._shares is not None:
            # Who is told by the image alone hears no prompt, whatever it says.
            _, no_text = dropped(batch["drop"], self.recipe.drop)
            shown["prompted"] = ~no_text & (self._shares[:, 0] > 0)
        return shown

    def _attended(self, told: Noted, given: Given) -> Float[Tensor, "B N 1"]:
        """Say how much of a layer's attention the image's tokens have, as far as they count."""
        return self._counted(super()._attended(told, given))

    def _residual(
        self, told: Noted
    ) -> tuple[Float[Tensor, "B N width"], Float[Tensor, "B N width"]]:
        """Return what the image adds to a layer's stream as far as it counts, and the stream."""
        added, stream = super()._residual(told)
        return self._counted(added), stream

    def _counted(self, of_image: Float[Tensor, "B N width"]) -> Float[Tensor, "B N width"]:
        """Weigh what is of the image's branch by sigma: a sample told by text alone has none."""
        return of_image if self._shares is None else of_image * self._shares[:, 1, None, None]

    def _names(self) -> dict[str, str]:
        own = {name: name.replace(".0.", ".") for name in WEIGHTS}
        names = self.attention.published_names("attention", own)
        ours = {f"unet.{name}": theirs for name, theirs in names.items()}
        for part in self.modules_beside:
            held = getattr(self, part).state_dict()
            ours |= {f"{part}.{name}": f"{part}.{name}" for name in held}
        return ours
