"""DisenBooth: a LoRA learns the person, an image adapter takes away what else a picture shows.

Shapes: B samples, C channels, H rows, W columns of latents; T text tokens of width E.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from infra.errors import BadValue
from training.exports import read_tensors, save_tensors
from training.features import Features
from training.method import Batch
from training.methods.faceid_conditions import Given
from training.methods.lora import SubjectLoRA
from training.nets.codec import decoded
from training.nets.dis_booth import RestAdapter
from training.nets.published import renamed
from training.nets.vision import ImageEncoder, load_image_encoder
from training.noise import Noised
from training.objectives.step import Ask, Drop, Gives
from training.settings import TrainRecipe

ADAPTER_FILE = "image_adapter.safetensors"


@dataclass(frozen=True)
class GivenRest(Given):
    """What the network is told, and what else its picture shows."""

    rest: Float[Tensor, "B 1 E"] | None = None


class DisBooth(SubjectLoRA):
    """Train a LoRA on the subject's word, and beside it a token of what is not the subject.

    Each picture is predicted from f_s + f_i, where f_s are the prompt's states and f_i is made of
    the picture itself, so that pose, place and light need not be learnt as the person. The loss
    ``contrastive_disentangle`` keeps them apart and lets f_s alone be nearly enough. Pictures are
    drawn from f_s, so an export is a LoRA; the adapter lies beside it, for who trains on.

    The picture is decoded from its latents, whole and in 0 to 1 as the image encoder wants it:
    the original fed it -1 to 1. The adapter is among the weights whose gradients are clipped.

    References:
        Chen et al., "DisenBooth: Identity-Preserving Disentangled Tuning for Subject-Driven
        Text-to-Image Generation", arXiv:2305.03374.
    """

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        if not features.image_encoder:
            raise BadValue(
                "data.path",
                str(folder),
                "dis_booth looks at its pictures, and the features name no image encoder; prepare "
                "them with one.",
            )
        super().__init__(recipe, features, folder)
        path = folder / ADAPTER_FILE
        self._looker: tuple[torch.device, ImageEncoder] | None = None
        if path.is_file():
            image_dim = len(read_tensors(path)["mask"])
        else:
            image_dim = self._encoder(torch.device("cpu")).pooled_dim
        width = self.unet.config.cross_attention_dim
        self.rest_adapter = RestAdapter(image_dim, width, recipe.seed)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name the weights of the LoRA and of the image adapter."""
        return super().trainable() | dict(self.rest_adapter.named_parameters("rest_adapter"))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms; see ``Batch`` for what is read."""
        with torch.no_grad():
            pictures = decoded(self.codec, batch["latents"])
        vectors = self._encoder(pictures.device).pooled(pictures).clone().float()
        rest = self.rest_adapter(vectors)
        if "is_prior" in batch:
            rest = rest * ~batch["is_prior"][:, None, None]
        return super().forward({**batch, "rest": rest})

    def save(self, folder: Path) -> None:
        """Write an export: a LoRA as ``load_lora_weights`` reads it, and the image adapter."""
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / ADAPTER_FILE, self.rest_adapter.state_dict())
        super().save(folder)

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Return the weights of an export; see ``Method.read``."""
        held, path = super().read(folder), folder / ADAPTER_FILE
        ours = self.rest_adapter.state_dict()
        adapter = renamed(read_tensors(path), ours, {name: name for name in ours}, path)
        return held | {f"rest_adapter.{name}": weight for name, weight in adapter.items()}

    def _gives(self) -> Gives:
        width = self.unet.config.cross_attention_dim
        return replace(super()._gives(), embed=width, rest=width, vector=False)

    def _told(self, batch: Batch) -> Given:
        told = super()._told(batch)
        return GivenRest(told.faces, told.text, told.pooled, rest=batch["rest"])

    def _asking(self, batch: Batch, noised: Noised) -> Ask:
        whole = super()._asking(batch, noised)

        def ask(
            *,
            drop: Drop = "nothing",
            changed: Mapping[str, Tensor] | None = None,
            **how: Any,  # noqa: ANN401 - as ``Ask``
        ) -> Tensor:
            if drop == "rest":
                alone = {**(changed or {}), "rest": torch.zeros_like(batch["rest"])}
                return whole(changed=alone, **how)
            return whole(drop=drop, changed=changed, **how)

        return ask

    def _embed(self, given: Given) -> Float[Tensor, "B tokens E"]:
        return given.text

    def _rest(self, given: Given) -> Float[Tensor, "B tokens E"]:
        assert isinstance(given, GivenRest)
        assert given.rest is not None
        return given.rest

    def _predict(
        self,
        z_t: Float[Tensor, "B C H W"],
        t: Int64[Tensor, " B"],
        given: Given,
        size: Float[Tensor, "B 6"] | None,
        control: float = 1.0,
    ) -> Float[Tensor, "B C H W"]:
        """Ask the UNet, told the picture's rest beside the words where there is one."""
        if isinstance(given, GivenRest) and given.rest is not None:
            given = replace(given, text=given.text + given.rest)
        return super()._predict(z_t, t, given, size, control)

    def _encoder(self, device: torch.device) -> ImageEncoder:
        """Load the image encoder where the pictures are; drawing needs none."""
        if self._looker is None or self._looker[0] != device:
            reference = self.features.image_encoder
            self._looker = device, load_image_encoder(reference, device=str(device))
        return self._looker[1]
