"""FaceChain-FACT: a frozen base with gated attention to a face between its own attentions.

Shapes: B samples, C channels, H rows, W columns of latents; N positions of a layer.
"""

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from infra.errors import BadValue
from training.exports import read_matching, read_tensors, save_tensors, write_export
from training.features import Features
from training.method import Batch
from training.methods.faceid_conditions import Given
from training.methods.on_base import AdapterOnBase
from training.nets.attention_maps import Told
from training.nets.face_chain_fact import FaceTokens, FactAdapter, adopt, publish
from training.nets.face_states import check_image
from training.nets.tuning import tune
from training.objectives.step import Gives
from training.settings import TrainRecipe

FILE = "face-adapter.safetensors"


class FaceChainFact(AdapterOnBase):
    """Train the tokens and the gated layers of ``training.nets.face_chain_fact``.

    Faces are shuffled: the reference is another photograph of the person wherever there is one, so
    that what is learnt is who it is. Conditions are dropped in shares that grow with the run
    (``method.curriculum``) from 0 to those of ``drop``: first to draw a face at all, then to do
    without. The paper names a curriculum over drop and shuffle and no numbers; here the shuffle is
    always on. How far the run is, 0 to 1, is the batch's ``progress``.

    A dropped face is the tokens of a vector of zeros and of the empty picture. Several reference
    faces are shown together, as published. ``Sampling.scale`` is of both gates.

    ``losses.fair`` keeps what the layers add to the face.

    References:
        Yu et al., "FaceChain-FACT: Face Adapter with Decoupled Training for Identity-preserved
        Personalization", arXiv:2410.12312. Training code was not published.
    """

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        check_image(features, recipe.method.kind)
        super().__init__(recipe, features, folder)
        self.adapter = FactAdapter(self.unet, recipe.base.weights, recipe.seed)
        if self.objective.needs("residuals"):
            self.adapter.note()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed + 1)
            self.tokens = FaceTokens(
                features, recipe.method.tokens, self.unet.config.cross_attention_dim
            )
        tune(self.unet, recipe.scale)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name the resampler, what comes before it, and the gated layers."""
        weights = {f"unet.{name}": weight for name, weight in self.adapter.weights().items()}
        return weights | {f"tokens.{n}": weight for n, weight in self.tokens.named_parameters()}

    def strength(self, scale: float) -> AbstractContextManager[None]:
        """Use this much of the gated layers while the context lasts."""
        return self.adapter.strength(scale)

    def eject(self) -> nn.Module:
        """Take the adapter out and return the base as it was; the method is of no use after."""
        return self.adapter.eject()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms, with as many drops as the curriculum says."""
        curriculum = self.recipe.method.curriculum
        if not curriculum:
            return super().forward(batch)
        if "progress" not in batch:
            raise BadValue(
                "method.curriculum", curriculum, "the batch says no `progress`; set it to 0."
            )
        begun = (batch["progress"] / curriculum).clamp(1e-6, 1)
        # Draws are uniform: spread over 1 / begun times their range, so many fewer are in a share.
        return super().forward({**batch, "drop": batch["drop"] / begun})

    def save(self, folder: Path) -> None:
        """Write an export, the adapter under the original's names.

        ``face-adapter.safetensors`` holds ``<layer>.attn2.processor.*`` and ``local_fac_prj.*``, as
        the original's file, and ``states.*``, which the original does not read.
        """
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / FILE, publish(self.trainable()))
        held = self.conditions.held
        write_export(folder, self.recipe, self.features, self.codec, held, self.base)

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Return the weights of an export; see ``Method.read``."""
        read_matching(folder, self.recipe, self.features, self.base)
        return adopt(read_tensors(folder / FILE), self.trainable(), folder / FILE)

    def _gives(self) -> Gives:
        """Say what losses may look at: faces are in no cross-attention."""
        embed = self.unet.config.cross_attention_dim
        return replace(super()._gives(), attention=False, embed=embed)

    def _embed(self, given: Given) -> Float[Tensor, "B tokens E"]:
        tokens: Tensor = self.tokens(given.faces)
        return tokens.float()

    def _residual(
        self, told: Told
    ) -> tuple[Float[Tensor, "B N width"], Float[Tensor, "B N width"]]:
        """Return what the gated layer before a cross-attention added, and what it added it to."""
        return self.adapter.noted(told.layer)

    def _predict(
        self,
        z_t: Float[Tensor, "B C H W"],
        t: Int64[Tensor, " B"],
        given: Given,
        size: Float[Tensor, "B 6"] | None,
        control: float = 1.0,  # noqa: ARG002 - of use to others
    ) -> Float[Tensor, "B C H W"]:
        """Ask the UNet, which is told the face where GLIGEN's is told boxes."""
        dtype = self.unet.dtype
        tokens = self.tokens(given.faces).to(dtype)
        added: dict[str, Any] = self._micro(z_t, given, size, dtype)
        pred: Tensor = self.unet(
            z_t.to(dtype),
            t,
            given.text.to(dtype),
            added_cond_kwargs=added,
            cross_attention_kwargs={"gligen": {"objs": tokens}},
            return_dict=False,
        )[0]
        return pred.float()
