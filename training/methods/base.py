"""A small diffusion network from scratch, conditioned on identity from the start.

It makes a real generator exist where nothing can be downloaded, and measures what an adapter on a
frozen base gives up against learning identity directly.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from infra.errors import BadWeights
from training.features import Features
from training.losses import mse, weighted_mean
from training.method import Batch, Condition, Method
from training.nets.codec import Codec, load_codec
from training.noise import STEPS, NoiseSchedule
from training.recipes import TrainRecipe

TOKEN_DIM = 192


class IdentityTokens(nn.Module):
    """Turn an identity vector into tokens that cross-attention can ask."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: Features, tokens: int, dim: int, norm: str) -> None:
        super().__init__()
        self.tokens, self.dim, self.norm = tokens, dim, norm
        self.register_buffer("mean", torch.tensor(features.identity_mean))
        self.register_buffer("std", torch.tensor(features.identity_std))
        inner = 2 * max(features.identity_dim, dim)
        self.net = nn.Sequential(
            nn.Linear(features.identity_dim, inner), nn.GELU(), nn.Linear(inner, tokens * dim)
        )
        self.last = nn.LayerNorm(dim)

    def forward(
        self, identity: Float[Tensor, "B dim"], present: Float[Tensor, " B"]
    ) -> Float[Tensor, "B tokens width"]:
        """Project raw vectors; where ``present`` is 0 the identity is left out."""
        if self.norm == "standard":
            identity = (identity - self.mean) / self.std
        elif self.norm == "unit":
            identity = nn.functional.normalize(identity, dim=1)
        projected = self.net(identity * present[:, None])
        tokens: Tensor = self.last(projected.view(-1, self.tokens, self.dim))
        return tokens


class BaseGenerator(Method):
    """A UNet with cross-attention to identity tokens, all of it trained.

    References:
        Ho and Salimans, "Classifier-Free Diffusion Guidance", arXiv:2207.12598; Salimans and Ho,
        "Progressive Distillation", arXiv:2202.00512, for the velocity.
    """

    def __init__(self, recipe: TrainRecipe, features: Features, codec: Codec) -> None:
        super().__init__()
        self.recipe, self.features = recipe, features
        # Not a submodule: nothing of it is trained, saved or moved with the optimiser's weights.
        object.__setattr__(self, "codec", codec)
        self.codec: Codec
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
        self.tokens = IdentityTokens(
            features, recipe.method.tokens, TOKEN_DIM, recipe.method.identity_norm
        )
        torch.random.set_rng_state(rng_state)
        self.schedule = NoiseSchedule(recipe.base)

    @staticmethod
    def make(recipe: TrainRecipe, features: Features, folder: Path) -> "BaseGenerator":
        """Build it for the features in ``folder``."""
        return BaseGenerator(recipe, features, load_codec(features.codec, folder))

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name every weight: nothing is frozen in so small a network."""
        return dict(self.named_parameters())

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict the noise or velocity of each sample, with the identity left out of some."""
        recipe = self.recipe
        present = (batch["drop"] >= recipe.drop.identity).float()
        if recipe.method.condition == "none":
            present = torch.zeros_like(present)
        noised = self.schedule.noised(batch["latents"], batch["noise"], batch["time"])
        tokens = self.tokens(batch["identity"], present)
        pred = self.unet(noised.z_t, noised.t, tokens).sample.float()
        weight = self.schedule.weight(noised.snr, recipe.losses.min_snr_gamma)
        term = weighted_mean(mse(pred, noised.target), weight)
        return {"loss": recipe.losses.mse * term, "mse": term.detach()}

    @torch.no_grad()
    def generate(
        self, condition: Condition, rng: torch.Generator, *, steps: int = 30, guidance: float = 2.0
    ) -> Float[Tensor, "samples 3 height width"]:
        """Draw with DDIM and classifier-free guidance."""
        device = next(self.parameters()).device
        identity = condition.identity.to(device)
        ones = torch.ones(len(identity), device=device)
        tokens = torch.cat([self.tokens(identity, ones), self.tokens(identity, 0 * ones)])
        sampler = DDIMScheduler.from_config(
            self.schedule.scheduler.config, timestep_spacing="trailing"
        )
        sampler.set_timesteps(steps)
        shape = (len(identity), *self.features.latent_shape)
        z_t = torch.randn(shape, generator=rng).to(device)
        for t in sampler.timesteps:
            with_id, without = self.unet(torch.cat([z_t, z_t]), t, tokens).sample.chunk(2)
            z_t = sampler.step(without + guidance * (with_id - without), t, z_t).prev_sample
        return self.codec.decode(z_t.cpu()).clamp(0, 1)

    def save(self, folder: Path) -> None:
        """Write the weights and what is needed to read them."""
        held = {name: weight.detach().contiguous() for name, weight in self.named_parameters()}
        save_file(held, folder / "base.safetensors")
        about = {"method": asdict(self.recipe.method), "embedder": self.features.embedder,
                 "steps": STEPS}  # fmt: skip
        (folder / "base.json").write_text(json.dumps(about, indent=2) + "\n")

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote.

        Raises:
            BadWeights: The weights are of another size.
        """
        held = load_file(folder / "base.safetensors")
        mine = dict(self.named_parameters())
        if {n: w.shape for n, w in held.items()} != {n: w.shape for n, w in mine.items()}:
            raise BadWeights(
                str(folder / "base.safetensors"), "has another size", "Use the run's own recipe."
            )
        with torch.no_grad():
            for name, weight in mine.items():
                weight.copy_(held[name])
