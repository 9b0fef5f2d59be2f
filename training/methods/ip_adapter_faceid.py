"""IP-Adapter-FaceID: a frozen base that also attends to tokens made from an identity vector.

Shapes: B samples, C channels, H rows, W columns of latents.
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
from training.method import AS_USUAL, Batch, Callback, Condition, Method, Random, Sampling
from training.methods.faceid_conditions import FaceIDConditions, Given, dropped, joined
from training.nets.codec import decoded, load_codec
from training.nets.faceid import FaceIDAdapter
from training.nets.faceid_layout import adopt, companion, publish
from training.nets.presets import load_unet
from training.nets.references import weights_version
from training.nets.tuning import tune
from training.noise import NoiseSchedule, check_base
from training.objective import Objective
from training.sampler import draw, first_noise, latent_px
from training.settings import TrainRecipe

NAME = "ip-adapter-faceid"


class IPAdapterFaceID(Method):
    """Train the adapter of ``training.nets.faceid`` on a frozen text-to-image base.

    What stands for dropped conditions is said by ``FaceIDConditions``.

    References:
        Ye et al., "IP-Adapter", arXiv:2308.06721, and its tutorial_train_faceid.py.
    """

    unet: Any  # half of diffusers' methods have no types

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        super().__init__()
        self.recipe, self.features = recipe, features
        check_base(recipe.base)
        self.schedule = NoiseSchedule(recipe.base)
        self.unet = load_unet(recipe.base.weights)
        self._check_features()
        method, plus = recipe.method, recipe.method.variant == "plus"
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
        self.codec = load_codec(features.codec, folder)
        self.conditions = FaceIDConditions(
            method,
            features,
            folder,
            text_width=self.unet.config.cross_attention_dim,
            pooled_dim=self._pooled_dim,
        )
        self.objective = Objective(recipe.losses, self.schedule, self.codec, features)
        tune(self.unet, recipe.scale)
        self._base = ""

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name the projection, the keys and values, and the LoRA if there is one."""
        return {f"unet.{name}": weight for name, weight in self.adapter.weights().items()}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms; see ``Batch`` for what is read."""
        noised = self.schedule.noised(batch["latents"], batch["noise"], batch["time"])
        no_identity, no_text = dropped(batch["drop"], self.recipe.drop)
        whole = self.conditions.whole(
            batch["identity"],
            image=batch.get("image"),
            text=batch.get("text"),
            pooled=batch.get("pooled"),
        )
        given = self.conditions.without(whole, no_identity, no_text)
        pred = self._predict(noised.z_t, noised.t, given, batch.get("size"))
        losses: dict[str, Tensor] = self.objective(pred, noised, batch, ~no_identity)
        return losses

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

        ``sampling.scale`` is of the adapter, LoRA included; 0 gives the base's own picture.
        """
        asked, of = condition, self.conditions
        identity = asked.identity.to(self.unet.device)
        someone = of.whole(identity, image=asked.image, text=asked.text, pooled=asked.pooled)
        everybody = torch.ones(len(identity), dtype=torch.bool, device=identity.device)
        nobody = of.without(someone, everybody, ~everybody)
        nothing = of.without(someone, everybody, everybody)
        if asked.negative_text is not None:
            text, pooled = asked.negative_text, asked.negative_pooled
            away = of.whole(identity, image=asked.image, text=text, pooled=pooled)
            nothing = replace(nothing, text=away.text, pooled=away.pooled)
        noise = first_noise(asked, rng, sampling, self.features).to(identity)

        def predict(z_t: Tensor, t: Tensor, counts: bool) -> tuple[Tensor, Tensor]:
            both = joined(nothing, someone if counts else nobody)
            twice = torch.cat([z_t, z_t])
            without, given = self._predict(twice, t.expand(len(twice)), both, None).chunk(2)
            return without, given

        with self.adapter.strength(sampling.scale):
            z_0 = draw(self.schedule, noise, predict, asked, sampling, callback)
        return decoded(self.codec, z_0)

    def adapter_off(self) -> AbstractContextManager[None]:
        """Be the base model while the context lasts."""
        return self.adapter.strength(0.0)

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

    @property
    def base(self) -> str:
        """Which weights the base has; read once, for it may be gigabytes."""
        self._base = self._base or weights_version(self.recipe.base.weights, ("unet",))
        return self._base

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
        if width and features.pooled_dim != self._pooled_dim:
            raise BadValue(
                "base.weights",
                weights,
                f"it takes {self._pooled_dim} numbers of pooled text, and the features have "
                f"{features.pooled_dim}; prepare them with this base's text encoder.",
            )
        if self.recipe.method.variant == "plus" and not features.image_shape[0]:
            raise BadValue(
                "method.variant", "plus", "prepare the features with an image encoder for it."
            )

    @property
    def _pooled_dim(self) -> int:
        """Numbers of pooled text that the base takes: SDXL's; 0 for none."""
        config = self.unet.config
        if config.addition_embed_type != "text_time":
            return 0
        return int(
            config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        )

    def _predict(
        self,
        z_t: Float[Tensor, "B C H W"],
        t: Int64[Tensor, " B"],
        given: Given,
        size: Float[Tensor, "B 6"] | None,
    ) -> Float[Tensor, "B C H W"]:
        dtype = self.unet.dtype
        added: dict[str, Any] = {"image_embeds": [given.faces.to(dtype)]}
        if self._pooled_dim:
            if size is None:
                height, width = (side * latent_px(self.features) for side in z_t.shape[2:])
                size = z_t.new_tensor([[height, width, 0, 0, height, width]] * len(z_t))
            added |= {"time_ids": size, "text_embeds": given.pooled.to(dtype)}
        pred: Tensor = self.unet(
            z_t.to(dtype), t, given.text.to(dtype), added_cond_kwargs=added, return_dict=False
        )[0]
        return pred.float()
