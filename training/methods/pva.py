"""PVA: a person's face painted into a hole of a picture, by attention beside the text's.

Shapes: B samples, H rows, W columns of latents.
"""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from infra.errors import BadValue, BadWeights
from infra.weights import locate
from training.exports import CONFIG, read_export, read_tensors
from training.features import Features
from training.method import AS_USUAL, Batch, Callback, Condition, Random, Sampling
from training.methods.ip_adapter_faceid import NAME, IPAdapterFaceID
from training.nets.faceid_layout import adopt
from training.nets.inpainting import around_hole, grown, inpainting
from training.settings import TrainRecipe


class PVA(IPAdapterFaceID):
    """Train identity tokens, and the keys and values that see them, on a frozen inpainting base.

    A run over many people teaches what a vector means; one of 40 steps with ``data.subject``, which
    begins at the first one's export (``method.start``), teaches one person. The hole is the face
    mask, one latent wider; drawing needs ``Condition.source`` and ``mask``, and what is outside
    the mask stays.

    The original makes its tokens of several references by a transformer over a face network's
    features, and cuts holes of parts of the face too. Here they are the MLP's of
    ``training.nets.faceid``, so that ``load_ip_adapter`` of an inpainting pipeline reads them.

    References:
        Xu et al., "Personalized Face Inpainting with Diffusion Models by Parallel Visual
        Attention", arXiv:2312.03556.
    """

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        """Make it.

        Raises:
            BadValue: The base is none for inpainting.
            BadWeights: What it begins at is no export, or another encoder's.
        """
        if not recipe.base.weights:
            cure = "name an inpainting base: 'file:<folder>', of a UNet that is told the hole too."
            raise BadValue("base.weights", "", cure)
        super().__init__(recipe, features, folder)
        if recipe.method.start and not (folder / CONFIG).is_file():
            self._begin(locate(recipe.method.start))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms; see ``Batch`` for what is read."""
        around = around_hole(self.codec, batch["latents"], grown(batch["mask"]))
        with inpainting(self.unet, around):
            return super().forward(batch)

    def generate(
        self,
        condition: Condition,
        rng: Random,
        sampling: Sampling = AS_USUAL,
        *,
        callback: Callback | None = None,
    ) -> Float[Tensor, "samples 3 height width"]:
        """Paint into one picture per row of ``condition``; see ``Method.generate``.

        Raises:
            BadValue: There is no picture, or no mask that says where to paint.
        """
        source, mask = condition.source, condition.mask
        if source is None or mask is None:
            missing = "source" if source is None else "mask"
            cure = "pva paints into a picture: give its latents, and 1 where to paint."
            raise BadValue(f"condition.{missing}", None, cure)
        device = self.unet.device
        around = around_hole(self.codec, source.to(device), mask.to(device))
        with inpainting(self.unet, around):
            return super().generate(condition, rng, sampling, callback=callback)

    def _begin(self, start: Path) -> None:
        """Take the weights of an export over many people."""
        export, path = read_export(start), start / f"{NAME}.safetensors"
        ours = (self.recipe.method.identity_norm, self.features.embedder)
        theirs = (export.recipe.method.identity_norm, export.features.embedder)
        if export.recipe.method.kind != "pva" or ours != theirs:
            raise BadWeights(
                str(start),
                f"is of {export.recipe.method.kind} for {theirs[0]} vectors of {theirs[1]}, and "
                f"the model here is pva for {ours[0]} vectors of {ours[1]}",
                "Name the export of a run of pva on features of the same encoder.",
            )
        weights = self.adapter.weights()
        for name, weight in adopt(
            read_tensors(path), weights, self.adapter.attention, path
        ).items():
            weights[name].data.copy_(weight)

    def _check_features(self) -> None:
        config, features, weights = self.unet.config, self.features, self.recipe.base.weights
        channels, width = features.latent_shape[0], features.text_shape[1]
        wanted = 2 * channels + 1
        if config.in_channels != wanted or config.out_channels != channels:
            raise BadValue(
                "base.weights",
                weights,
                f"it takes {config.in_channels} channels, and pva gives {wanted}: noisy latents, "
                "the hole, latents around it; give an inpainting base for these features' codec.",
            )
        if width not in (0, config.cross_attention_dim) or self.pooled_dim:
            raise BadValue(
                "base.weights",
                weights,
                f"it takes text of width {config.cross_attention_dim}, and the features have "
                f"{width}; prepare them with this base's text encoder.",
            )
