"""A small diffusion network from scratch, conditioned on identity from the start, or on nothing.

With identity it makes a real generator exist where nothing can be downloaded, and measures what an
adapter on a frozen base gives up against learning identity directly. On nothing it learns faces
only, and is the frozen base of such an adapter: the first of two steps.

An export holds the network as diffusers' ``unet/`` with ``scheduler/`` beside it, and the identity
tokens in ``tokens.safetensors``.
"""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int64
from torch import Tensor, nn

from infra.errors import BadValue, BadWeights
from training.exports import read_matching, read_tensors, save_tensors, write_export
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
    """A UNet with cross-attention to identity tokens, all of it trained.

    Without identity (``method.condition`` none) the tokens are zeros, which is what an adapter's
    frozen base sees where there is no text.

    References:
        Ho and Salimans, "Classifier-Free Diffusion Guidance", arXiv:2207.12598; Salimans and Ho,
        "Progressive Distillation", arXiv:2202.00512, for the velocity.
    """

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        super().__init__()
        self.recipe, self.features = recipe, features
        if recipe.method.condition == "none":
            for name in sorted(set(LOSSES) - {"mse", "masked"}):
                if (weight := getattr(recipe.losses, name)) > 0:
                    raise BadValue(
                        f"losses.{name}",
                        weight,
                        "nobody is asked for with method.condition none; set it to 0.",
                    )
        self.codec = load_codec(features.codec, folder)
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
            cross_attention_dim=TOKEN_DIM,
            attention_head_dim=8,
        )
        self.tokens: IdentityTokens | None = None
        if recipe.method.condition == "identity":
            self.tokens = IdentityTokens(
                features, recipe.method.tokens, TOKEN_DIM, recipe.method.identity_norm
            )
        torch.random.set_rng_state(rng_state)
        tune(self.unet, recipe.scale)
        self.schedule = NoiseSchedule(recipe.base)
        self.objective = Objective(
            recipe.losses, self.schedule, self.codec, features, Gives(ask=True, embed=TOKEN_DIM)
        )

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name every weight but the codec's: nothing is frozen in so small a network."""
        mine = ("unet.", "tokens.")
        return {name: w for name, w in self.named_parameters() if name.startswith(mine)}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict the noise or velocity of each sample, with the identity left out of some."""
        asked = batch["drop"] >= self.recipe.drop.identity
        if self.tokens is None:
            asked = torch.zeros_like(asked)
        noised = self.schedule.noised(batch["latents"], batch["noise"], batch["time"])
        pred = self._predict(noised.z_t, noised.t, self._tokens(batch["identity"], asked.float()))
        ones = torch.ones_like(batch["drop"])

        def again(z_t: Tensor, t: Tensor, told: Batch, whose: bool) -> Tensor:
            return self._predict(z_t, t, self._tokens(told["identity"], ones * whose))

        shown = {
            "ask": asking(batch, noised, again),
            "embed": lambda told: self._tokens(told["identity"], ones),
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

        ``sampling.scale`` multiplies the normalised identity; 0 leaves it out. Text is not looked
        at, neither here nor in training.
        """
        if condition.identity.ndim != 2:
            raise BadValue("condition.identity", "several faces", "give one vector per sample.")
        identity = condition.identity.to(self.unet.device)
        ones = torch.ones(len(identity), device=identity.device)
        none = self._tokens(identity, 0 * ones)
        someone = self._tokens(identity, sampling.scale * ones)

        def predict(z_t: Tensor, t: Tensor, asked: bool) -> tuple[Tensor, Tensor]:
            tokens = torch.cat([someone if asked else none, none])
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
        write_export(folder, self.recipe, self.features, self.codec, {})

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

    def _tokens(
        self, identity: Float[Tensor, "B D"], present: Float[Tensor, " B"]
    ) -> Float[Tensor, "B tokens width"]:
        if self.tokens is None:
            return identity.new_zeros(len(identity), self.recipe.method.tokens, TOKEN_DIM)
        tokens: Tensor = self.tokens(identity, present)
        return tokens
