"""Videos to latents and back: frame by frame, or with time compressed too.

Shapes: B samples of F frames, C channels, T frames of latents.
"""

from pathlib import Path

from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from jaxtyping import Float
from torch import Tensor, nn

from infra.errors import BadValue
from training.nets.codec import Codec, load_codec
from training.nets.references import split_reference
from training.nets.video_presets import VIDEO_VAES, is_video_vae, load_video_vae


class FrameCodec(nn.Module):
    """A codec of pictures, for each frame by itself: T is F."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec

    def encode(
        self, pictures: Float[Tensor, "B 3 F height width"]
    ) -> Float[Tensor, "B C F rows columns"]:
        """Return the latents of ``pictures``."""
        coded = self.codec.encode(pictures.transpose(1, 2).flatten(0, 1))
        return coded.view(len(pictures), -1, *coded.shape[1:]).transpose(1, 2).contiguous()

    def decode(
        self, latents: Float[Tensor, "B C T rows columns"]
    ) -> Float[Tensor, "B 3 T height width"]:
        """Return the frames of ``latents``."""
        pictures = self.codec.decode(latents.transpose(1, 2).flatten(0, 1))
        return pictures.view(len(latents), -1, *pictures.shape[1:]).transpose(1, 2)


class CausalCodec(nn.Module):
    """CogVideoX's autoencoder: 8 x 8 pixels and 4 frames are one latent, the first frame alone.

    So F is 4 * (T - 1) + 1. T is odd: diffusers' decoder takes latents two by two, the first one
    with a third, and makes too many frames of an even number. Latents are scaled as the model is
    trained on them.

    Args:
        reference: Of the autoencoder.
        tiled: Work on overlapping tiles, one sample at a time: less memory, and seams that the
            overlap blends.
    """

    def __init__(self, reference: str, *, tiled: bool = False) -> None:
        super().__init__()
        self.vae = load_video_vae(reference).requires_grad_(False)
        self.scale = float(self.vae.config["scaling_factor"])
        self.per_latent = int(self.vae.config["temporal_compression_ratio"])
        if tiled:
            _tile(self.vae)
            self.vae.enable_slicing()

    def encode(
        self, pictures: Float[Tensor, "B 3 F height width"]
    ) -> Float[Tensor, "B C T rows columns"]:
        """Return the mean of the latents: training on it is what caching allows.

        Raises:
            BadValue: The number of frames is not one more than a multiple of 8.
        """
        frames = pictures.shape[2]
        if (frames - 1) % (2 * self.per_latent):
            cure = f"give one more than a multiple of {2 * self.per_latent}."
            raise BadValue("clip_frames", frames, cure)
        latents: Tensor = self.vae.encode(pictures * 2 - 1).latent_dist.mode()
        return self.scale * latents

    def decode(
        self, latents: Float[Tensor, "B C T rows columns"]
    ) -> Float[Tensor, "B 3 F height width"]:
        """Return the frames of ``latents``.

        Raises:
            BadValue: The number of latent frames is even.
        """
        if latents.shape[2] % 2 == 0:
            raise BadValue("sampling.frames", latents.shape[2], "give an odd number.")
        pictures: Tensor = self.vae.decode(latents / self.scale).sample
        return pictures / 2 + 0.5


def _tile(vae: AutoencoderKLCogVideoX) -> None:
    """Let it work on tiles that overlap by whole latents; by others they would not meet.

    The overlaps of its own, a sixth and a fifth, are whole for the published size alone.
    """

    def whole(latents: int, share: float) -> float:
        return max(1, round(latents * share)) / latents

    vae.enable_tiling(
        tile_overlap_factor_height=whole(
            vae.tile_latent_min_height, vae.tile_overlap_factor_height
        ),
        tile_overlap_factor_width=whole(vae.tile_latent_min_width, vae.tile_overlap_factor_width),
    )


def load_video_codec(
    reference: str, folder: Path, *, tiled: bool = False
) -> FrameCodec | CausalCodec:
    """Return the codec that videos were prepared with; see ``training.nets.codec.load_codec``."""
    scheme, name = split_reference(reference)
    by_name = scheme == "random" and name in VIDEO_VAES
    if by_name or (
        scheme == "file" and not _is_file(reference, folder) and is_video_vae(reference)
    ):
        return CausalCodec(reference, tiled=tiled)
    return FrameCodec(load_codec(reference, folder))


def _is_file(reference: str, folder: Path) -> bool:
    return (folder / reference.partition(":")[2]).is_file()
