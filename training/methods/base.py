"""A small diffusion network from scratch, conditioned on identity, on words, or on nothing.

With identity it makes a real generator exist where nothing can be downloaded, and measures what an
adapter on a frozen base gives up against learning identity directly. On words or on nothing it is
the frozen base of such an adapter: the first of two steps.

An export holds the network as diffusers' ``unet/`` with ``scheduler/`` beside it, and the identity
tokens in ``tokens.safetensors``.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int64
from torch import Tensor, nn

from infra.errors import BadValue, BadWeights
from training.exports import (
    read_empty,
    read_matching,
    read_tensors,
    save_tensors,
    write_export,
)
from training.features import Features
from training.loss_settings import LOSSES
from training.method import AS_USUAL, Batch, Callback, Condition, Method, Random, Sampling
from training.nets.codec import decoded, load_codec
from training.nets.identity_tokens import IdentityTokens
from training.nets.tuning import tune
from training.noise import NoiseSchedule
from training.objective import Objective
from training.objectives.step import Gives, asking
from training.sampler import draw, first_noise
from training.settings import TrainRecipe

TOKEN_DIM = 192
_UNET = "unet/diffusion_pytorch_model.safetensors"
_TOKENS = "tokens.safetensors"


class BaseGenerator(Method):
    """A UNet with cross-attention to what it is told, all of it trained.

    ``method.condition`` says what that is: tokens of the identity; the states of the caption, whose
    encoder stays as it is; or zeros, which is what an adapter's frozen base sees where there is no
    text. A caption that is left out is the empty prompt.

    References:
        Ho and Salimans, "Classifier-Free Diffusion Guidance", arXiv:2207.12598; Salimans and Ho,
        "Progressive Distillation", arXiv:2202.00512, for the velocity.
    """

    empty_text: Tensor

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        super().__init__()
        self.recipe, self.features = recipe, features
        self._condition = recipe.method.condition
        self._check()
        self.codec = load_codec(features.codec, folder)
        words = self._condition == "text"
        told_width = features.text_shape[1] if words else TOKEN_DIM
        empty = read_empty(folder)["text"] if words else torch.empty(0)
        self.register_buffer("empty_text", empty, persistent=False)
        width, (channels, rows, _) = recipe.method.width, features.latent_shape
        rng_state = torch.random.get_rng_state()
        torch.manual_seed(recipe.seed)
        self.unet = UNet2DConditionModel(
            sample_size=rows,
            in_channels=channels,
            out_channels=channels,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(width, width * 5 // 3 // 32 * 32),
            layers_per_block=1,
            cross_attention_dim=told_width,
            attention_head_dim=8,
        )
        self.tokens: IdentityTokens | None = None
        if self._condition == "identity":
            self.tokens = IdentityTokens(
                features, recipe.method.tokens, TOKEN_DIM, recipe.method.identity_norm
            )
        torch.random.set_rng_state(rng_state)
        tune(self.unet, recipe.scale)
        self.schedule = NoiseSchedule(recipe.base)
        self.objective = Objective(
            recipe.losses, self.schedule, self.codec, features, Gives(ask=True, embed=told_width)
        )

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name every weight but the codec's: nothing is frozen in so small a network."""
        mine = ("unet.", "tokens.")
        return {name: w for name, w in self.named_parameters() if name.startswith(mine)}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict the noise or velocity of each sample, with the condition left out of some."""
        drop = self.recipe.drop
        told = batch["drop"] >= (drop.text if self._condition == "text" else drop.identity)
        asked = told if self._condition == "identity" else torch.zeros_like(told)
        noised = self.schedule.noised(batch["latents"], batch["noise"], batch["time"])
        pred = self._predict(noised.z_t, noised.t, self._told(batch, told.float()))
        ones = torch.ones_like(batch["drop"])

        def again(z_t: Tensor, t: Tensor, told: Batch, whose: bool) -> Tensor:
            return self._predict(z_t, t, self._told(told, ones * whose))

        shown = {
            "ask": asking(batch, noised, again),
            "embed": lambda told: self._told(told, ones),
        }
        losses: dict[str, Tensor] = self.objective(pred, noised, batch, asked, **shown)
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

        ``sampling.scale`` multiplies the normalised identity; 0 leaves it out. Text is looked at
        by a model of words alone, and by it identity is not.
        """
        if condition.identity.ndim != 2:
            raise BadValue("condition.identity", "several faces", "give one vector per sample.")
        identity = condition.identity.to(self.unet.device)
        ones = torch.ones(len(identity), device=identity.device)
        of = {"identity": identity}
        if condition.text is not None:
            of["text"] = condition.text.to(identity)
        none = self._told(of, 0 * ones)
        some = self._told(of, (1.0 if self._condition == "text" else sampling.scale) * ones)

        def predict(z_t: Tensor, t: Tensor, asked: bool) -> tuple[Tensor, Tensor]:
            tokens = torch.cat([some if asked or self._condition == "text" else none, none])
            pred: Tensor = self.unet(torch.cat([z_t, z_t]), t, tokens).sample
            given, without = pred.chunk(2)
            return without, given

        noise = first_noise(condition, rng, sampling, self.features).to(identity)
        return decoded(
            self.codec, draw(self.schedule, noise, predict, condition, sampling, callback)
        )

    def save(self, folder: Path) -> None:
        """Write an export; see ``training.exports``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.unet.save_pretrained(folder / "unet", safe_serialization=True)
        self.schedule.scheduler.save_pretrained(folder / "scheduler")
        if self.tokens is not None:
            save_tensors(folder / _TOKENS, self.tokens.state_dict())
        empty = {"text": self.empty_text} if self._condition == "text" else {}
        write_export(folder, self.recipe, self.features, self.codec, empty)

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Return the weights of an export; see ``Method.read``."""
        read_matching(folder, self.recipe, self.features, base="")
        held = {f"unet.{name}": w for name, w in read_tensors(folder / _UNET).items()}
        if self.tokens is not None:
            held |= {f"tokens.{name}": w for name, w in read_tensors(folder / _TOKENS).items()}
        mine = self.trainable()
        if {n: w.shape for n, w in held.items()} != {n: w.shape for n, w in mine.items()}:
            raise BadWeights(
                str(folder / _UNET), "has another size", "Use the recipe that it was made with."
            )
        return held

    def _predict(
        self,
        z_t: Float[Tensor, "B C H W"],
        t: Int64[Tensor, " B"],
        tokens: Float[Tensor, "B tokens width"],
    ) -> Float[Tensor, "B C H W"]:
        pred: Tensor = self.unet(z_t, t, tokens).sample.float()
        return pred

    def _told(
        self, of: Mapping[str, Tensor], present: Float[Tensor, " B"]
    ) -> Float[Tensor, "B tokens width"]:
        """Return what cross-attention sees; the condition is left out where ``present`` is 0."""
        if self._condition == "text":
            empty = self.empty_text.expand(len(present), -1, -1)
            return torch.where(present[:, None, None] > 0, of.get("text", empty).to(empty), empty)
        if self.tokens is None:
            return present.new_zeros(len(present), self.recipe.method.tokens, TOKEN_DIM)
        tokens: Tensor = self.tokens(of["identity"], present)
        return tokens

    def _check(self) -> None:
        """Refuse what this condition cannot be trained with."""
        if self._condition == "identity":
            return
        for name in sorted(set(LOSSES) - {"mse", "masked"}):
            if (weight := getattr(self.recipe.losses, name)) > 0:
                why = f"nobody is asked for with method.condition {self._condition}; set it to 0."
                raise BadValue(f"losses.{name}", weight, why)
        if self._condition == "text" and not self.features.text_shape[0]:
            cure = "the features have no text; prepare them with --text-encoder, or give none."
            raise BadValue("method.condition", self._condition, cure)
