"""Pictures to latents and back.

Two kinds: the KL autoencoder of Stable Diffusion, and a linear patch code that needs no training,
small enough for CPUs.
"""

import json
from itertools import chain
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from infra.errors import BadWeights

CODEC_FILE = "codec.safetensors"
BESIDE = f"file:{CODEC_FILE}"
"""The reference of a patch codec: a file in the folder of the features."""
_AGAIN = "Delete it and prepare the corpus again; of an export, export the run again."


@runtime_checkable
class Codec(Protocol):
    """Turns RGB pictures in 0 to 1 into latents of about unit variance, and back."""

    def encode(
        self, pictures: Float[Tensor, "B 3 height width"]
    ) -> Float[Tensor, "B C rows columns"]:
        """Return the latents of ``pictures``."""
        ...

    def decode(
        self, latents: Float[Tensor, "B C rows columns"]
    ) -> Float[Tensor, "B 3 height width"]:
        """Return the pictures of ``latents``; differentiable; may overshoot 0 to 1 a little."""
        ...


class PatchCodec(nn.Module):
    """Square patches, each as its strongest principal components, scaled to unit variance.

    On 64 px faces, 4 px patches and 12 of 48 components keep about 97 % of the variance, and
    identity survives. It is a closed form: fitting is one eigendecomposition.
    """

    mean: Tensor
    encoder: Tensor
    decoder: Tensor

    def __init__(self, patch_px: int = 4, channels: int = 12) -> None:
        super().__init__()
        self.patch_px, self.channels = patch_px, channels
        values = 3 * patch_px**2
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("encoder", torch.zeros(channels, values))
        self.register_buffer("decoder", torch.zeros(values, channels))

    @torch.no_grad()
    def fit(self, pictures: Float[Tensor, "B 3 height width"]) -> float:
        """Find the components of some pictures; return the share of variance that they keep."""
        patches = self._patches(pictures).flatten(0, 2).double()
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((patches - mean).T))
        strongest = values.argsort(descending=True)[: self.channels]
        scale = values[strongest].clamp(min=1e-8).sqrt()
        axes = vectors[:, strongest]
        # The sign of an eigenvector is an accident of the library: fix it.
        axes = axes * axes.sum(0).sign().where(axes.sum(0) != 0, torch.tensor(1.0).double())
        self.mean.copy_(mean)
        self.encoder.copy_((axes / scale).T)
        self.decoder.copy_(axes * scale)
        return float(values[strongest].sum() / values.sum())

    def encode(
        self, pictures: Float[Tensor, "B 3 height width"]
    ) -> Float[Tensor, "B C rows columns"]:
        """Return the components of every patch."""
        coded = (self._patches(pictures) - self.mean) @ self.encoder.T
        return coded.permute(0, 3, 1, 2).contiguous()

    def decode(
        self, latents: Float[Tensor, "B C rows columns"]
    ) -> Float[Tensor, "B 3 height width"]:
        """Put the patches back together."""
        size, (count, _, rows, columns) = self.patch_px, latents.shape
        patches = latents.permute(0, 2, 3, 1) @ self.decoder.T + self.mean
        patches = patches.view(count, rows, columns, 3, size, size)
        return patches.permute(0, 3, 1, 4, 2, 5).reshape(count, 3, rows * size, columns * size)

    def _patches(
        self, pictures: Float[Tensor, "B 3 height width"]
    ) -> Float[Tensor, "B rows columns values"]:
        size = self.patch_px
        count, _, height, width = pictures.shape
        cut = pictures.view(count, 3, height // size, size, width // size, size)
        return cut.permute(0, 2, 4, 1, 3, 5).flatten(3)

    def save(self, path: Path) -> None:
        """Write the code as safetensors."""
        shape = json.dumps({"patch_px": self.patch_px, "channels": self.channels})
        save_file(dict(self.state_dict()), path, {"patch_codec": shape})

    @staticmethod
    def load(path: Path) -> "PatchCodec":
        """Read what ``save`` wrote.

        Raises:
            BadWeights: The file is lost, damaged, or holds something else.
        """
        if not path.is_file():
            raise BadWeights(str(path), "does not exist", _AGAIN)
        try:
            with safe_open(path, framework="pt") as held:
                shape = (held.metadata() or {}).get("patch_codec")
                if shape is None:
                    raise BadWeights(str(path), "is no patch codec", _AGAIN)
                codec = PatchCodec(**json.loads(shape))
                codec.load_state_dict({name: held.get_tensor(name) for name in held.keys()})  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, TypeError, RuntimeError) as error:
            raise BadWeights(str(path), f"is damaged: {error}", _AGAIN) from None
        return codec


class KLCodec(nn.Module):
    """The autoencoder of Stable Diffusion, its latents scaled as the model is trained on them."""

    def __init__(self, reference: str) -> None:
        super().__init__()
        from training.nets.presets import load_vae

        self.vae = load_vae(reference).eval().requires_grad_(False)
        self.scale = float(self.vae.config.scaling_factor)

    def encode(
        self, pictures: Float[Tensor, "B 3 height width"]
    ) -> Float[Tensor, "B C rows columns"]:
        """Return the mean of the latents: training on it is what caching allows."""
        latents: Tensor = self.vae.encode(pictures * 2 - 1).latent_dist.mode()
        return self.scale * latents

    def decode(
        self, latents: Float[Tensor, "B C rows columns"]
    ) -> Float[Tensor, "B 3 height width"]:
        """Return the pictures of ``latents``."""
        pictures: Tensor = self.vae.decode(latents / self.scale).sample
        return pictures / 2 + 0.5


def decoded(
    codec: Codec, latents: Float[Tensor, "B C *T H W"]
) -> Float[Tensor, "B 3 *F height width"]:
    """Decode in the codec's own precision, to float32 in 0 to 1; videos with a codec of these."""
    held = chain(codec.parameters(), codec.buffers()) if isinstance(codec, nn.Module) else []
    dtype = next((tensor.dtype for tensor in held), latents.dtype)
    return codec.decode(latents.to(dtype)).float().clamp(0, 1)


def save_codec(codec: Codec, reference: str, folder: Path) -> None:
    """Write a codec that lies beside its features beside something else; see ``load_codec``."""
    if isinstance(codec, PatchCodec) and reference == BESIDE:
        codec.save(folder / CODEC_FILE)


def load_codec(reference: str, folder: Path) -> Codec:
    """Return the codec that features were made with; ``BESIDE`` them, or an autoencoder."""
    if reference == BESIDE:
        return PatchCodec.load(folder / CODEC_FILE)
    return KLCodec(reference)
