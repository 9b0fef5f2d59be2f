"""IP-Adapter-FaceID: a frozen base that also attends to tokens made from an identity vector.

Shapes: B samples, C channels, H rows, W columns of latents.
"""

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor, nn

from infra.errors import BadValue
from training.exports import read_matching, read_tensors, save_tensors, write_export
from training.features import Features
from training.methods.faceid_conditions import Given
from training.methods.on_base import AdapterOnBase
from training.nets.faceid import FaceIDAdapter
from training.nets.faceid_layout import adopt, companion, publish
from training.nets.tuning import tune
from training.objectives.step import Gives
from training.settings import TrainRecipe

NAME = "ip-adapter-faceid"


class IPAdapterFaceID(AdapterOnBase):
    """Train the adapter of ``training.nets.faceid`` on a frozen text-to-image base.

    ``Sampling.scale`` is of all of it, the LoRA included.

    References:
        Ye et al., "IP-Adapter", arXiv:2308.06721, and its tutorial_train_faceid.py.
    """

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        super().__init__(recipe, features, folder)
        method, plus = recipe.method, recipe.method.variant == "plus"
        if plus and not features.image_shape[0]:
            raise BadValue(
                "method.variant", "plus", "prepare the features with an image encoder for it."
            )
        self.adapter = FaceIDAdapter(
            self.unet,
            recipe.base.weights,
            identity_dim=features.identity_dim,
            tokens=method.tokens,
            lora_rank=method.lora_rank,
            seed=recipe.seed,
            image_width=features.image_shape[1] if plus else 0,
            shortcut=method.shortcut,
        )
        tune(self.unet, recipe.scale)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name the projection, the keys and values, and the LoRA if there is one."""
        return {f"unet.{name}": weight for name, weight in self.adapter.weights().items()}

    def strength(self, scale: float) -> AbstractContextManager[None]:
        """Use this much of the adapter while the context lasts; see ``FaceIDAdapter.strength``."""
        return self.adapter.strength(scale)

    def eject(self) -> nn.Module:
        """Take the adapter out and return the base as it was; the method is of no use after."""
        return self.adapter.eject()

    def save(self, folder: Path) -> None:
        """Write an export, the adapter as diffusers and ComfyUI read it.

        The LoRA is written a second time, alone: ComfyUI does not read it out of the first file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        weights, attention = self.adapter.weights(), self.adapter.attention
        save_tensors(folder / f"{NAME}.safetensors", publish(weights, attention))
        if self.recipe.method.lora_rank > 0:
            save_tensors(folder / f"{NAME}.lora.safetensors", companion(weights, attention))
        write_export(
            folder, self.recipe, self.features, self.codec, self.conditions.held, self.base
        )

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Return the weights of an export; see ``Method.read``."""
        read_matching(folder, self.recipe, self.features, self.base)
        path = folder / f"{NAME}.safetensors"
        held = adopt(read_tensors(path), self.adapter.weights(), self.adapter.attention, path)
        return {f"unet.{name}": weight for name, weight in held.items()}

    def _gives(self) -> Gives:
        return replace(super()._gives(), embed=self.unet.config.cross_attention_dim)

    def _embed(self, given: Given) -> Float[Tensor, "B tokens E"]:
        tokens = self.unet.encoder_hid_proj([given.faces.to(self.unet.dtype)])[0]
        embedded: Tensor = tokens.flatten(1, -2).float()
        return embedded

    def _predict(
        self,
        z_t: Float[Tensor, "B C H W"],
        t: Int64[Tensor, " B"],
        given: Given,
        size: Float[Tensor, "B 6"] | None,
        control: float = 1.0,  # noqa: ARG002 - of use to others
    ) -> Float[Tensor, "B C H W"]:
        """Ask the UNet, which makes the tokens itself."""
        dtype = self.unet.dtype
        added: dict[str, Any] = {"image_embeds": [given.faces.to(dtype)]}
        added |= self._micro(z_t, given, size, dtype)
        pred: Tensor = self.unet(
            z_t.to(dtype), t, given.text.to(dtype), added_cond_kwargs=added, return_dict=False
        )[0]
        return pred.float()
