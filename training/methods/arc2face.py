"""Arc2Face: all of Stable Diffusion 1.5, told a person in place of a prompt.

Shapes: B samples, D identity, T tokens of width E.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from infra.errors import BadValue, BadWeights
from training.exports import read_matching, read_tensors, write_export
from training.features import Features
from training.method import AS_USUAL, Batch, Callback, Condition, Method, Random, Sampling
from training.methods.faceid_conditions import dropped
from training.nets.codec import decoded, load_codec
from training.nets.identity_prompt import IdentityPrompt
from training.nets.identity_tokens import normalised
from training.nets.presets import load_unet
from training.nets.tuning import tune
from training.noise import NoiseSchedule, check_base
from training.objective import Objective
from training.objectives.step import Gives, asking
from training.sampler import draw, first_noise
from training.settings import TrainRecipe

UNET, ENCODER = "arc2face", "encoder"
_UNET_WEIGHTS = f"{UNET}/diffusion_pytorch_model.safetensors"


class Arc2Face(Method):
    """UNet and text encoder, both trained; see ``training.nets.identity_prompt`` for the prompt.

    Identity is all that it is told: captions are not looked at, neither here nor in training. A
    dropped identity is the empty prompt, which is what guidance leads away from. An export holds
    all of both networks, and needs no base. Published with unit vectors, and drawn with guidance 3.

    References:
        Papantoniou et al., "Arc2Face: A Foundation Model for ID-Consistent Human Faces",
        arXiv:2403.11641.
    """

    unet: Any  # half of diffusers' methods have no types

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        super().__init__()
        self.recipe, self.features = recipe, features
        if (folder / UNET).is_dir():
            self.unet = load_unet(f"file:{folder / UNET}")
            self.encoder = IdentityPrompt.load(folder / ENCODER)
        else:
            check_base(recipe.base)
            self.unet = load_unet(recipe.base.weights)
            self.encoder = IdentityPrompt.of(recipe.base.weights)
        self._check_features()
        self.unet.requires_grad_(True)
        self.encoder.requires_grad_(True)
        tune(self.unet, recipe.scale)
        self.codec = load_codec(features.codec, folder)
        self.schedule = NoiseSchedule(recipe.base)
        self.objective = Objective(
            recipe.losses,
            self.schedule,
            self.codec,
            features,
            Gives(ask=True, embed=self.encoder.width),
        )

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name every weight of the UNet and of the text encoder."""
        mine = ("unet.", "encoder.")
        return {name: w for name, w in self.named_parameters() if name.startswith(mine)}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict the noise or velocity of each sample, with the identity left out of some."""
        noised = self.schedule.noised(batch["latents"], batch["noise"], batch["time"])
        absent, _ = dropped(batch["drop"], self.recipe.drop)
        pred = self._predict(noised.z_t, noised.t, self._told(batch["identity"], ~absent))
        everybody = torch.ones_like(absent)

        def again(z_t: Tensor, t: Tensor, told: Batch, whose: bool) -> Tensor:
            return self._predict(z_t, t, self._told(told["identity"], everybody & whose))

        shown = {
            "ask": asking(batch, noised, again),
            "embed": lambda told: self._told(told["identity"], everybody),
        }
        losses: dict[str, Tensor] = self.objective(pred, noised, batch, ~absent, **shown)
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

        There is no base to go back to: ``sampling.scale`` is how far the prompt's states go from
        the empty prompt's to the person's, and 0 draws nobody in particular.
        """
        identity = condition.identity.to(self.unet.device)
        if identity.ndim != 2:
            raise BadValue("condition.identity", "several faces", "give one vector per sample.")
        everybody = torch.ones(len(identity), dtype=torch.bool, device=identity.device)
        none = self._told(identity, ~everybody)
        someone = torch.lerp(none, self._told(identity, everybody), sampling.scale)
        dtype = self.unet.dtype

        def predict(z_t: Tensor, t: Tensor, asked: bool) -> tuple[Tensor, Tensor]:
            told = torch.cat([none, someone if asked else none]).to(dtype)
            pred: Tensor = self.unet(torch.cat([z_t, z_t]).to(dtype), t, told).sample
            without, given = pred.float().chunk(2)
            return without, given

        noise = first_noise(condition, rng, sampling, self.features).to(identity)
        return decoded(
            self.codec, draw(self.schedule, noise, predict, condition, sampling, callback)
        )

    def save(self, folder: Path) -> None:
        """Write an export in Arc2Face's layout: ``arc2face/`` and ``encoder/``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.unet.save_pretrained(folder / UNET, safe_serialization=True)
        self.encoder.save(folder / ENCODER)
        write_export(folder, self.recipe, self.features, self.codec, {})

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Return the weights of an export; see ``Method.read``."""
        read_matching(folder, self.recipe, self.features, base="")
        held = {f"unet.{name}": w for name, w in read_tensors(folder / _UNET_WEIGHTS).items()}
        held |= {f"encoder.{name}": w for name, w in self.encoder.read(folder / ENCODER).items()}
        mine = self.trainable()
        if {n: w.shape for n, w in held.items()} != {n: w.shape for n, w in mine.items()}:
            raise BadWeights(
                str(folder / UNET), "has another size", "Use the base that it was made from."
            )
        return held

    def _predict(
        self, z_t: Float[Tensor, "B C H W"], t: Int64[Tensor, " B"], told: Float[Tensor, "B T E"]
    ) -> Float[Tensor, "B C H W"]:
        pred: Tensor = self.unet(z_t, t, told).sample.float()
        return pred

    def _told(
        self, identity: Float[Tensor, "B D"], present: Bool[Tensor, " B"]
    ) -> Float[Tensor, "B T E"]:
        """Return the states of each person's prompt, or of the empty one."""
        norm = self.recipe.method.identity_norm
        states: Tensor = self.encoder(normalised(identity, norm, self.features), present)
        return states

    def _check_features(self) -> None:
        config, features, weights = self.unet.config, self.features, self.recipe.base.weights
        if config.cross_attention_dim != self.encoder.width or config.addition_embed_type:
            raise BadValue(
                "base.weights",
                weights,
                "Arc2Face is of Stable Diffusion 1.5, with one text encoder.",
            )
        if features.latent_shape[0] != config.in_channels:
            raise BadValue(
                "base.weights",
                weights,
                f"it takes {config.in_channels} channels, and the features have "
                f"{features.latent_shape[0]}; prepare them with this base's codec.",
            )
        if features.identity_dim > self.encoder.width:
            raise BadValue(
                "base.weights",
                weights,
                f"a word of it has {self.encoder.width} numbers, and takes no vector of "
                f"{features.identity_dim}; give a wider base, such as Stable Diffusion 1.5.",
            )
