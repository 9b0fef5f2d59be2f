"""IP-Adapter-FaceID: a frozen base that also attends to tokens made from an identity vector.

Shapes: B samples, C channels, H rows, W columns of latents; D identity, T text tokens of width E.
"""

import json
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from jaxtyping import Bool, Float, Int64
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from infra.errors import BadValue, BadWeights
from training.features import Features
from training.losses import masked, mse, weighted_mean
from training.method import Batch, Condition, Method
from training.nets.codec import KLCodec
from training.nets.faceid import FaceIDAdapter
from training.nets.faceid_layout import adopt, companion, publish
from training.nets.presets import load_unet
from training.noise import NoiseSchedule
from training.recipes import BaseModelSettings, DropSettings, MethodSettings, TrainRecipe

NAME = "ip-adapter-faceid"
CONFIG = "adapter_config.json"


def dropped(
    draw: Float[Tensor, " B"], shares: DropSettings
) -> tuple[Bool[Tensor, " B"], Bool[Tensor, " B"]]:
    """Say which samples go without identity, and which without text.

    Args:
        draw: Uniform in 0 to 1.
        shares: 0 to 1 is divided in their order: identity, text, both; the rest keeps all.
    """
    identity, text = shares.identity, shares.identity + shares.text
    both = (draw >= text) & (draw < text + shares.both)
    return (draw < identity) | both, ((draw >= identity) & (draw < text)) | both


class IPAdapterFaceID(Method):
    """Train the adapter of ``training.nets.faceid`` on a frozen text-to-image base.

    A dropped identity is a vector of zeros after normalisation, so that what stands for nobody is
    the MLP of zeros; dropped text is hidden states of zeros.

    References:
        Ye et al., "IP-Adapter", arXiv:2308.06721, and its tutorial_train_faceid.py.
    """

    unet: Any  # half of diffusers' methods have no types

    def __init__(self, recipe: TrainRecipe, features: Features) -> None:
        super().__init__()
        self.recipe, self.features = recipe, features
        self.schedule = NoiseSchedule(recipe.base)
        self.unet = load_unet(recipe.base.weights)
        self.adapter = FaceIDAdapter(
            self.unet,
            recipe.base.weights,
            identity_dim=features.identity_dim,
            tokens=recipe.method.tokens,
            lora_rank=recipe.method.lora_rank,
            seed=recipe.seed,
        )
        self._check_features()
        self.codec = KLCodec(features.codec)
        self.identity_loss: nn.Module | None = None
        if recipe.losses.identity > 0:
            # Only here: it brings the identity network.
            from training.identity import IdentityLoss, differentiable_encoder

            self.identity_loss = IdentityLoss(differentiable_encoder(features.backend))
        if recipe.scale.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        if recipe.scale.channels_last:
            self.unet.to(memory_format=torch.channels_last)
        if recipe.scale.compile:
            self.unet.compile_repeated_blocks()

    @classmethod
    def make(cls, recipe: TrainRecipe, features: Features) -> "IPAdapterFaceID":
        """Build a fresh adapter on the recipe's base.

        Raises:
            BadValue: The base cannot carry the adapter, or does not fit the features.
        """
        return cls(recipe, features)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name the MLP, the keys and values, and the LoRA if there is one."""
        return {f"unet.{name}": weight for name, weight in self.adapter.weights().items()}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms; see ``Batch`` for what is read."""
        losses = self.recipe.losses
        noised = self.schedule.noised(batch["latents"], batch["noise"], batch["time"])
        no_identity, no_text = dropped(batch["drop"], self.recipe.drop)
        identity = self.normalised(batch["identity"])
        text = self._text(batch.get("text"), identity)
        pred = self._predict(
            noised.z_t,
            noised.t,
            text.masked_fill(no_text[:, None, None], 0),
            identity.masked_fill(no_identity[:, None], 0),
        )
        weight = self.schedule.weight(noised.snr, losses.min_snr_gamma)
        terms = {"mse": weighted_mean(mse(pred, noised.target), weight)}
        if losses.masked > 0:
            terms["masked"] = weighted_mean(masked(pred, noised.target, batch["mask"]), weight)
        if self.identity_loss is not None:
            pictures = self._decode(self.schedule.clean(noised.z_t, noised.t, pred))
            far = self.identity_loss(pictures, batch["landmarks"], batch["target_identity"])
            # A noisy estimate shows nobody, and without identity nobody was asked for.
            signal = noised.snr / (1 + noised.snr)
            terms["identity"] = weighted_mean(far, signal.masked_fill(no_identity, 0))
        loss = torch.stack([getattr(losses, name) * term for name, term in terms.items()]).sum()
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    @torch.no_grad()
    def generate(
        self,
        condition: Condition,
        rng: torch.Generator,
        *,
        steps: int = 30,
        guidance: float = 2.0,
        scale: float = 1.0,
    ) -> Float[Tensor, "samples 3 height width"]:
        """Draw one picture per row of ``condition``, RGB in 0 to 1, by DDIM.

        Args:
            condition: Identities, and text or None.
            rng: Where the first noise comes from.
            steps: Calls of the network, evenly over the 1,000 times.
            guidance: Strength of classifier-free guidance; 1 is none.
            scale: How much of the adapter, LoRA included; 0 gives the base's own picture.

        References:
            Song et al., "Denoising Diffusion Implicit Models", arXiv:2010.02502;
            Ho and Salimans, "Classifier-Free Diffusion Guidance", arXiv:2207.12598.
        """
        identity = self.normalised(condition.identity.to(self.unet.device))
        text = self._text(condition.text, identity)
        with_identity = torch.cat([torch.zeros_like(identity), identity])
        with_text = torch.cat([torch.zeros_like(text), text])
        noise: Any = self.schedule.scheduler
        make_sampler: Any = DDIMScheduler.from_config
        sampler = make_sampler(noise.config, timestep_spacing="trailing")
        sampler.set_timesteps(steps)
        shape = (len(identity), *self.features.latent_shape)
        z_t = torch.randn(shape, generator=rng, device=rng.device).to(identity)
        with self.adapter.strength(scale):
            for t in sampler.timesteps:
                times = t.to(z_t.device).expand(2 * len(z_t))
                pred = self._predict(torch.cat([z_t, z_t]), times, with_text, with_identity)
                without, given = pred.chunk(2)
                z_t = sampler.step(without + guidance * (given - without), t, z_t).prev_sample
        return self._decode(z_t)

    def adapter_off(self) -> AbstractContextManager[None]:
        """Be the base model while the context lasts."""
        return self.adapter.strength(0.0)

    def eject(self) -> nn.Module:
        """Take the adapter out and return the base as it was; the method is of no use after."""
        return self.adapter.eject()

    def save(self, folder: Path) -> None:
        """Write the adapter as diffusers and ComfyUI read it, and what it was made for.

        The LoRA is written a second time, alone: ComfyUI does not read it out of the first file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: weight.detach().cpu().contiguous()
            for name, weight in self.adapter.weights().items()
        }
        files = {f"{NAME}.safetensors": publish(weights, self.adapter.attention)}
        if self.recipe.method.lora_rank > 0:
            files[f"{NAME}.lora.safetensors"] = companion(weights, self.adapter.attention)
        for name, held in files.items():
            save_file(held, folder / name, {"format": "pt"})
        about = {
            "recipe": self.recipe.name,
            "base": asdict(self.recipe.base),
            "method": asdict(self.recipe.method),
            "features": asdict(self.features),
        }
        (folder / CONFIG).write_text(json.dumps(about, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "IPAdapterFaceID":
        """Read what ``save`` wrote.

        Raises:
            BadWeights: A file is missing, not safetensors, or does not fit its configuration.
        """
        path = folder / f"{NAME}.safetensors"
        for needed in (path, folder / CONFIG):
            if not needed.exists():
                cure = (
                    f"Give a folder with {path.name} and {CONFIG}; convert a .bin to safetensors."
                )
                raise BadWeights(str(needed), "does not exist", cure)
        try:
            published = load_file(path)
        except SafetensorError as error:
            cure = "Convert it to safetensors."
            raise BadWeights(str(path), f"is not safetensors: {error}", cure) from error
        about = json.loads((folder / CONFIG).read_text())
        features: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in about["features"].items()
        }
        recipe = TrainRecipe(
            name=about["recipe"],
            base=BaseModelSettings(**about["base"]),
            method=MethodSettings(**about["method"]),
        )
        method = cls.make(recipe, Features(**features))
        held = adopt(published, method.adapter.weights(), method.adapter.attention, path)
        method.unet.load_state_dict(held, strict=False)
        return method

    def normalised(self, identity: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Bring raw vectors to the form that the recipe's ``identity_norm`` names."""
        match self.recipe.method.identity_norm:
            case "unit":
                return nn.functional.normalize(identity, dim=1)
            case "standard":
                # No buffers: who casts the module to bfloat16 would round these too.
                mean = identity.new_tensor(self.features.identity_mean)
                std = identity.new_tensor(self.features.identity_std)
                return (identity - mean) / std.clamp(min=1e-6)
            case "raw":
                return identity

    def _check_features(self) -> None:
        config, features = self.unet.config, self.features
        channels, width = features.latent_shape[0], features.text_shape[1]
        if channels != config.in_channels or width not in (0, config.cross_attention_dim):
            raise BadValue(
                "base.weights",
                self.recipe.base.weights,
                f"it takes {config.in_channels} channels and text of width "
                f"{config.cross_attention_dim}, and the features have {channels} and {width}; "
                "prepare them with this base's codec and text encoder.",
            )

    def _predict(
        self,
        z_t: Float[Tensor, "B C H W"],
        t: Int64[Tensor, " B"],
        text: Float[Tensor, "B T E"],
        identity: Float[Tensor, "B D"],
    ) -> Float[Tensor, "B C H W"]:
        dtype, config = self.unet.dtype, self.unet.config
        added: dict[str, Any] = {"image_embeds": [identity[:, None].to(dtype)]}
        if config.addition_embed_type == "text_time":  # SDXL
            side, times = self.features.image_px, 6 * config.addition_time_embed_dim
            pooled = config.projection_class_embeddings_input_dim - times
            added["time_ids"] = text.new_tensor([[side, side, 0, 0, side, side]] * len(text))
            added["text_embeds"] = text.new_zeros(len(text), pooled, dtype=dtype)
        pred: Tensor = self.unet(
            z_t.to(dtype), t, text.to(dtype), added_cond_kwargs=added, return_dict=False
        )[0]
        return pred.float()

    def _text(self, text: Tensor | None, identity: Float[Tensor, "B D"]) -> Float[Tensor, "B T E"]:
        """Return the text as it is, or zeros where there is none."""
        if text is not None and self.features.text_shape[0] > 0:
            return text.to(identity)
        tokens, width = max(self.features.text_shape[0], 1), self.unet.config.cross_attention_dim
        return identity.new_zeros(len(identity), tokens, width)

    def _decode(self, latents: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 3 height width"]:
        return self.codec.decode(latents.to(self.codec.vae.dtype)).float().clamp(0, 1)
