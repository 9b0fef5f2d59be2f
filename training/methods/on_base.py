"""What adapters on a frozen text-to-image base share: conditions, steps, drawing.

Shapes: B samples, C channels, H rows, W columns of latents.
"""

from contextlib import AbstractContextManager
from dataclasses import replace
from functools import reduce
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from infra.errors import BadValue
from training.features import Features
from training.method import AS_USUAL, Callback, Condition, Random, Sampling
from training.methods.faceid_conditions import FaceIDConditions, Given, joined
from training.methods.step_on_base import StepOnBase
from training.nets.codec import decoded, load_codec
from training.nets.merging import Merge, merging
from training.nets.presets import load_unet
from training.nets.references import weights_version
from training.nets.series_attention import subject_again
from training.noise import NoiseSchedule, check_base
from training.objective import Objective
from training.sampler import draw, first_noise, latent_px
from training.settings import TrainRecipe


class AdapterOnBase(StepOnBase):
    """A frozen base that is told a person's vector beside its prompt.

    What stands for dropped conditions is said by ``FaceIDConditions``. A kind of adapter puts
    itself into ``unet`` when it is made, tunes it, and answers ``_predict`` and ``strength``. What
    losses may see of it is said by ``StepOnBase``.
    """

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        super().__init__()
        self.recipe, self.features = recipe, features
        check_base(recipe.base)
        self.schedule = NoiseSchedule(recipe.base)
        self.unet = load_unet(recipe.base.weights)
        self._check_features()
        self.codec = load_codec(features.codec, folder)
        self.conditions = FaceIDConditions(
            recipe.method,
            features,
            folder,
            text_width=self.unet.config.cross_attention_dim,
            pooled_dim=self.pooled_dim,
        )
        self.objective = Objective(
            recipe.losses, self.schedule, self.codec, features, self._gives()
        )
        self._base = ""

    def _given(self, condition: Condition, height_px: int, width_px: int) -> Given:  # noqa: ARG002 - of use to others
        """Bring together what the network is told; see ``FaceIDConditions.whole``."""
        return self.conditions.whole(
            condition.identity, image=condition.image, text=condition.text, pooled=condition.pooled
        )

    @torch.no_grad()
    def generate(
        self,
        condition: Condition,
        rng: Random,
        sampling: Sampling = AS_USUAL,
        *,
        callback: Callback | None = None,
    ) -> Float[Tensor, "samples 3 height width"]:
        """Draw one picture per row of ``condition``; see ``Method.generate``.

        ``sampling.scale`` is of the whole adapter; 0 gives the base's own picture.
        """
        identity = condition.identity.to(self.unet.device)
        asked, of = replace(condition, identity=identity), self.conditions
        series = asked.series_text
        if series is not None and asked.text is None:
            cure = "give the text of its scenes too; training.series makes both."
            raise BadValue("condition.text", None, cure)
        noise = first_noise(asked, rng, sampling, self.features).to(identity)
        someone = self._given(asked, *self._sides_px(noise))
        everybody = torch.ones(len(identity), dtype=torch.bool, device=identity.device)
        nobody = of.without(someone, everybody, ~everybody)
        nothing = of.without(someone, everybody, everybody)
        if asked.negative_text is not None:
            text, pooled = asked.negative_text, asked.negative_pooled
            away = of.whole(identity, image=asked.image, text=text, pooled=pooled)
            nothing = replace(nothing, text=away.text, pooled=away.pooled)
        control = sampling.control * sampling.scale
        restores, restored = sampling.restore > 0, noise.new_tensor(sampling.restore)
        if asked.attributes is not None:
            restored = restored * asked.attributes.to(noise)[:, None]

        def predict(z_t: Tensor, t: Tensor, counts: bool) -> tuple[Tensor, Tensor]:
            told = [nothing, someone if counts else nobody, *([nobody] if restores else [])]
            many = torch.cat([z_t] * len(told))
            pred = self._predict(many, t.expand(len(many)), reduce(joined, told), None, control)
            without, given, *nobodys = pred.chunk(len(told))
            for each in nobodys:
                given = torch.lerp(given, each, restored)
            return without, given

        merge = Merge(rescale=sampling.rescale, adain_mean=sampling.adain_mean)
        with (
            self.strength(sampling.scale),
            merging(self.unet, merge),
            subject_again(self.unet, series, 3 if restores else 2),
        ):
            z_0 = draw(self.schedule, noise, predict, asked, sampling, callback)
        return decoded(self.codec, z_0)

    def adapter_off(self) -> AbstractContextManager[None]:
        """Be the base model while the context lasts."""
        return self.strength(0.0)

    @property
    def base(self) -> str:
        """Which weights the base has; read once, for it may be gigabytes."""
        self._base = self._base or weights_version(self.recipe.base.weights, ("unet",))
        return self._base

    @property
    def pooled_dim(self) -> int:
        """Numbers of pooled text that the base takes: SDXL's; 0 for none."""
        config = self.unet.config
        if config.addition_embed_type != "text_time":
            return 0
        return int(
            config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        )

    def _micro(
        self,
        z_t: Float[Tensor, "B C H W"],
        given: Given,
        size: Float[Tensor, "B 6"] | None,
        dtype: torch.dtype,
    ) -> dict[str, Tensor]:
        """Return what SDXL is told of size and prompt; nothing where the base takes neither.

        Without ``size`` pictures are whole, and as large as they are drawn.
        """
        if not self.pooled_dim:
            return {}
        if size is None:
            height, width = self._sides_px(z_t)
            size = z_t.new_tensor([[height, width, 0, 0, height, width]] * len(z_t))
        return {"time_ids": size, "text_embeds": given.pooled.to(dtype)}

    def _sides_px(self, z_t: Float[Tensor, "B C H W"]) -> tuple[int, int]:
        """Return height and width of the pictures of some latents."""
        each_px = latent_px(self.features)
        return z_t.shape[2] * each_px, z_t.shape[3] * each_px

    def _check_features(self) -> None:
        config, features, weights = self.unet.config, self.features, self.recipe.base.weights
        channels, width = features.latent_shape[0], features.text_shape[1]
        if channels != config.in_channels or width not in (0, config.cross_attention_dim):
            raise BadValue(
                "base.weights",
                weights,
                f"it takes {config.in_channels} channels and text of width "
                f"{config.cross_attention_dim}, and the features have {channels} and {width}; "
                "prepare them with this base's codec and text encoder.",
            )
        if width and features.pooled_dim != self.pooled_dim:
            raise BadValue(
                "base.weights",
                weights,
                f"it takes {self.pooled_dim} numbers of pooled text, and the features have "
                f"{features.pooled_dim}; prepare them with this base's text encoder.",
            )
