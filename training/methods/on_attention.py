"""What adapters share that have processors of their own in cross-attention, and modules beside.

Shapes: B samples, C channels, H rows, W columns of latents; F reference faces of V values each.
"""

from abc import abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from training.exports import read_matching, read_tensors, save_tensors, write_export
from training.methods.faceid_conditions import Given
from training.methods.on_base import AdapterOnBase
from training.nets.cross_attention import CrossAttention
from training.nets.published import keys_and_values_apart, keys_and_values_joined, renamed

Told = Tensor | tuple[Tensor, list[Tensor]]
"""What the UNet's cross-attention is told: text (B T E), and the tokens of identity beside it."""


class AttentionAdapter(AdapterOnBase):
    """An adapter whose ``attention`` is in the UNet, and whose modules make what it is told.

    Several reference faces of a sample are looked at together. A face whose vector is zeros is
    nobody: that is what a dropped identity is made of.

    Attributes:
        attention: The processors.
    """

    attention: CrossAttention
    modules_beside: ClassVar[tuple[str, ...]]
    """Attributes that hold the trained modules beside the UNet."""
    file: ClassVar[str]
    """Of an export: where the weights are."""

    @abstractmethod
    def _cross(self, given: Given) -> Told:
        """Return what cross-attention is told; at ``attention.scale`` 0, the text alone counts."""

    @abstractmethod
    def _names(self) -> dict[str, str]:
        """Return the published name of each trained weight."""

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name the weights in cross-attention, those of a LoRA, and the modules beside."""
        weights = {f"unet.{name}": weight for name, weight in self.attention.weights().items()}
        for part in self.modules_beside:
            named = getattr(self, part).named_parameters()
            weights |= {f"{part}.{name}": weight for name, weight in named}
        return weights

    def strength(self, scale: float) -> AbstractContextManager[None]:
        """Use this much of the adapter while the context lasts; 0: be the base."""
        return self.attention.strength(scale)

    def eject(self) -> nn.Module:
        """Take the adapter out and return the base as it was; the method is of no use after."""
        return self.attention.eject()

    def save(self, folder: Path) -> None:
        """Write an export, weights by their published names."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = self.trainable()
        named = {theirs: weights[ours] for ours, theirs in self._names().items()}
        save_tensors(folder / self.file, keys_and_values_joined(named))
        self._save_more(folder)
        write_export(
            folder, self.recipe, self.features, self.codec, self.conditions.held, self.base
        )

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Return the weights of an export; see ``Method.read``."""
        read_matching(folder, self.recipe, self.features, self.base)
        path = folder / self.file
        held = keys_and_values_apart(read_tensors(path))
        return renamed(held, self.trainable(), self._names(), path)

    def _save_more(self, folder: Path) -> None:
        """Write what an export needs that is not trained."""

    def _present(self, given: Given) -> Bool[Tensor, "B F"]:
        """Say which faces there are."""
        return given.faces[..., : self.features.identity_dim].any(dim=-1)

    def _images(self, given: Given) -> Float[Tensor, "B F patches width"]:
        """Return the image encoder's states of each face."""
        states = given.faces[..., self.features.identity_dim :]
        return states.reshape(*states.shape[:2], *self.features.image_shape)

    def _predict(
        self,
        z_t: Float[Tensor, "B C H W"],
        t: Int64[Tensor, " B"],
        given: Given,
        size: Float[Tensor, "B 6"] | None,
        control: float = 1.0,  # noqa: ARG002 - of use to others
    ) -> Float[Tensor, "B C H W"]:
        """Ask the UNet."""
        dtype, told = self.unet.dtype, self._cross(given)
        if isinstance(told, Tensor):
            told = told.to(dtype)
        else:
            told = told[0].to(dtype), [each.to(dtype) for each in told[1]]
        added = self._micro(z_t, given, size, dtype)
        pred: Tensor = self.unet(
            z_t.to(dtype), t, told, added_cond_kwargs=added, return_dict=False
        )[0]
        return pred.float()
