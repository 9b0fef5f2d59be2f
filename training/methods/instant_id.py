"""InstantID: a frozen base, identity tokens beside its text, and a ControlNet on five landmarks.

Shapes: B samples, C channels, H rows, W columns of latents; F reference faces, D identity.
"""

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from infra.errors import BadValue, BadWeights
from stages.landmarks import arcface5
from stages.models.faces import SCHEMES
from training.exports import read_matching, read_tensors, save_tensors, write_export
from training.features import Features
from training.method import Condition
from training.methods.faceid_conditions import Given
from training.methods.on_base import AdapterOnBase
from training.nets.instant_id import InstantIDAdapter
from training.nets.landmarks_drawing import drawn_landmarks, frontal_landmarks_px
from training.nets.tuning import tune
from training.objectives.step import Gives
from training.sampler import latent_px
from training.settings import TrainRecipe

ADAPTER = "ip-adapter.safetensors"
CONTROLNET = "ControlNetModel"
_CONTROLNET_WEIGHTS = f"{CONTROLNET}/diffusion_pytorch_model.safetensors"


class InstantID(AdapterOnBase):
    """Train the adapter of ``training.nets.instant_id`` on a frozen text-to-image base.

    A dropped identity is the Resampler's tokens of a vector of zeros, in the UNet and in
    IdentityNet alike. Landmarks are never dropped: whoever asks for a picture says, or leaves to
    a default, where the face is. As published, vectors are used as the encoder gives them
    (``method.identity_norm`` raw) and become 16 tokens.

    ``Sampling.scale`` is of both parts, ``Sampling.control`` of IdentityNet beside it.

    References:
        Wang et al., "InstantID: Zero-shot Identity-Preserving Generation in Seconds",
        arXiv:2401.07519.
    """

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        super().__init__(recipe, features, folder)
        self.adapter = InstantIDAdapter(
            self.unet,
            recipe.base.weights,
            identity_dim=features.identity_dim,
            tokens=recipe.method.tokens,
            latent_px=latent_px(features),
            seed=recipe.seed,
        )
        self.resampler, self.controlnet = self.adapter.resampler, self.adapter.controlnet
        tune(self.unet, recipe.scale)
        tune(self.controlnet, recipe.scale)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name the Resampler, the keys and values, and IdentityNet."""
        return self.adapter.weights()

    def strength(self, scale: float) -> AbstractContextManager[None]:
        """Use this much of the keys and values while the context lasts."""
        return self.adapter.strength(scale)

    def eject(self) -> nn.Module:
        """Take the adapter out and return the base as it was; the method is of no use after."""
        return self.adapter.eject()

    def save(self, folder: Path) -> None:
        """Write an export in InstantID's layout, with safetensors in place of its ``.bin``."""
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / ADAPTER, self.adapter.publish())
        self.controlnet.save_pretrained(folder / CONTROLNET, safe_serialization=True)
        write_export(
            folder, self.recipe, self.features, self.codec, self.conditions.held, self.base
        )

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Return the weights of an export; see ``Method.read``."""
        read_matching(folder, self.recipe, self.features, self.base)
        held = self.adapter.adopt(read_tensors(folder / ADAPTER), folder / ADAPTER)
        path = folder / _CONTROLNET_WEIGHTS
        held |= {f"controlnet.{name}": weight for name, weight in read_tensors(path).items()}
        mine = self.trainable()
        if {n: w.shape for n, w in held.items()} != {n: w.shape for n, w in mine.items()}:
            raise BadWeights(str(path), "has another size", "Use the base that it was made for.")
        return held

    def _given(self, condition: Condition, height_px: int, width_px: int) -> Given:
        """Bring conditions together, with the landmarks drawn at the size of the picture.

        Raises:
            BadValue: There are several reference faces.
        """
        identity = condition.identity
        if identity.ndim != 2:
            raise BadValue("condition.identity", "several faces", "give one vector per sample.")
        if condition.landmarks is None:
            points = torch.from_numpy(frontal_landmarks_px(height_px, width_px))
            points = points.expand(len(identity), 5, 2)
        else:
            scheme = SCHEMES[self.features.backend]
            points = torch.from_numpy(arcface5(condition.landmarks.cpu().numpy(), scheme))
        drawing = drawn_landmarks(points, height_px, width_px).to(identity.device)
        return replace(super()._given(condition, height_px, width_px), drawing=drawing)

    def _gives(self) -> Gives:
        # Landmarks can be left out where there is no text.
        return replace(super()._gives(), more=True, embed=self.unet.config.cross_attention_dim)

    def _embed(self, given: Given) -> Float[Tensor, "B tokens E"]:
        tokens: Tensor = self.resampler(given.faces)
        return tokens.float()

    def _predict(
        self,
        z_t: Float[Tensor, "B C H W"],
        t: Int64[Tensor, " B"],
        given: Given,
        size: Float[Tensor, "B 6"] | None,
        control: float = 1.0,
    ) -> Float[Tensor, "B C H W"]:
        """Ask IdentityNet, then the UNet; both are told the same tokens."""
        tokens = self.resampler(given.faces)
        dtype = self.unet.dtype
        added: dict[str, Any] = self._micro(z_t, given, size, dtype)
        pred: Tensor = self.unet(
            z_t.to(dtype),
            t,
            (given.text.to(dtype), [tokens[:, None].to(dtype)]),
            added_cond_kwargs=added,
            return_dict=False,
            **self._seen(z_t, t, given, size, tokens, control),
        )[0]
        return pred.float()

    def _seen(
        self,
        z_t: Float[Tensor, "B C H W"],
        t: Int64[Tensor, " B"],
        given: Given,
        size: Float[Tensor, "B 6"] | None,
        tokens: Float[Tensor, "B tokens width"],
        control: float,
    ) -> dict[str, Any]:
        """Return what IdentityNet adds to the UNet's layers; it is not asked for nothing."""
        if control == 0:
            return {}
        assert given.drawing is not None
        dtype = next(self.controlnet.parameters()).dtype
        down, middle = self.controlnet(
            z_t.to(dtype),
            t,
            tokens.to(dtype),
            given.drawing.to(dtype),
            conditioning_scale=control,
            added_cond_kwargs=self._micro(z_t, given, size, dtype),
            return_dict=False,
        )
        dtype = self.unet.dtype
        return {
            "down_block_additional_residuals": [each.to(dtype) for each in down],
            "mid_block_additional_residual": middle.to(dtype),
        }
