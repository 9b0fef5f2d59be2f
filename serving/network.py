"""One method on a device, with the encoders that feed it, its weights to be swapped.

Shapes: P pictures, H and W their sides in px, h and w the rows and columns of their latents.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from serving.recipes import ImageSettings
from serving.types import RGB, Draw, Edit
from serving.weights import Model
from training.build import load_export
from training.method import Condition, Sampling
from training.methods.on_subject_words import SubjectWordsOnBase
from training.nets.codec import decoded
from training.nets.text import load_text_encoder
from training.nets.vision import load_image_encoder

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Network:
    """The network that exports of one signature share; as a rule, one of them is mounted.

    Attributes:
        sides_px: Width and height that it was trained at.
        multiple_px: What sides must be multiples of.
    """

    def __init__(self, model: Model, settings: ImageSettings) -> None:
        """Build it from any of the exports.

        Raises:
            BadInput: The export, its base or its encoders cannot be read.
        """
        features, device, dtype = model.features, settings.device, _DTYPES[settings.precision]
        self.features, self._device = features, torch.device(device)
        self._method = load_export(model.folder).eval().requires_grad_(False)
        unet: Any = self._method.unet
        self._method.to(self._device)
        # A generator from scratch is small and calls its network in float32.
        if dtype != torch.float32 and model.recipe.method.kind != "base":
            # Not unet.to(): diffusers warns of layers to be kept, and there are none.
            nn.Module.to(unet, dtype)
        codec = self._method.codec
        if isinstance(codec, nn.Module):
            # Half precision overflows in SDXL's autoencoder; bfloat16 does not.
            codec.to(self._device, torch.float32 if dtype == torch.float16 else dtype)
        if self._device.type == "cuda":
            unet.to(memory_format=torch.channels_last)
        if settings.compile:
            unet.compile_repeated_blocks()
        self._text = (
            load_text_encoder(features.text_encoder, device=device, dtype=dtype)
            if model.takes_text
            else None
        )
        self._image = (
            load_image_encoder(features.image_encoder, device=device, dtype=dtype)
            if model.recipe.method.takes_image
            else None
        )
        self._parameters = self._method.trainable()
        self._mounted: Hashable = None
        _, rows, columns = features.latent_shape
        self._each_px = round(features.image_px / sqrt(rows * columns))
        self.sides_px = (columns * self._each_px, rows * self._each_px)
        self.multiple_px = self._each_px * 2 ** (len(unet.config.block_out_channels) - 1)

    def read(self, model: Model) -> dict[str, Tensor]:
        """Read an export's weights as they are to be mounted, one per trained parameter.

        Raises:
            BadWeights: They are missing, or of another shape.
        """
        held = self._method.read(model.folder)
        return {
            name: torch.empty_like(weight.data).copy_(held[name])
            for name, weight in self._parameters.items()
        }

    def mount(self, model: Model, weights: Mapping[str, Tensor]) -> None:
        """Point the trained parameters at other tensors; nothing is copied."""
        if self._mounted != model.key:
            self._mounted = None
            for name, parameter in self._parameters.items():
                parameter.data = weights[name]
            self._mounted = model.key

    def overlong(self, prompts: list[str]) -> bool:
        """Say whether any prompt has more words than the text encoder reads."""
        return self._text is not None and any(self._text.overlong(prompts))

    def draw(
        self,
        asks: Sequence[Draw],
        sampling: Sampling,
        callback: Callable[[int, Tensor], bool] | None = None,
    ) -> list[RGB]:
        """Draw all pictures of like requests with what is mounted.

        Every picture has a generator of its own, on the CPU: it is the same on every device, alone
        and in company.

        Raises:
            Stopped: The callback said True.
        """
        seeds = [ask.seed + i for ask in asks for i in range(ask.pictures)]
        rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
        drawn = self._method.generate(self._condition(asks), rngs, sampling, callback=callback)
        edits = [ask.edit for ask in asks for _ in range(ask.pictures)]
        return [_kept(picture, edit) for picture, edit in zip(_bytes(drawn), edits, strict=True)]

    def decode(self, latents: Tensor) -> list[RGB]:
        """Turn latents (P C h w) into pictures."""
        return _bytes(decoded(self._method.codec, latents))

    def _condition(self, asks: Sequence[Draw]) -> Condition:
        """Bring together what the pictures are to be of."""
        counts = torch.tensor([ask.pictures for ask in asks])
        identity = torch.zeros(len(asks), self.features.identity_dim)
        for row, ask in zip(identity, asks, strict=True):
            if ask.reference is not None:
                row.copy_(torch.tensor(ask.reference.vector))
        parts: dict[str, Any] = {"identity": identity}
        if self._text is not None:
            parts["text"], parts["pooled"] = self._read([ask.prompt for ask in asks])
            negative = [ask.negative_prompt for ask in asks]
            parts["negative_text"], parts["negative_pooled"] = self._text.encode(negative)
        if self._image is not None:
            parts["image"] = self._image.encode(_faces(asks, self._image.image_px))
        edits = [ask.edit for ask in asks if ask.edit is not None]
        if edits:
            parts |= self._edited(edits)
        each: dict[str, Any] = {
            name: None if part is None else part.repeat_interleave(counts.to(part.device), dim=0)
            for name, part in parts.items()
        }
        return Condition(**each)

    def _read(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Encode prompts as the method reads them; who learnt one person draws them by default."""
        assert self._text is not None
        method = self._method
        if method.recipe.method.per_subject:
            asked = method.recipe.method
            usual = asked.prompt.format(asked.subject_word)
            prompts = [prompt or usual for prompt in prompts]
        if isinstance(method, SubjectWordsOnBase):
            with torch.no_grad():
                return method.told(prompts), None
        return self._text.encode(list(prompts))

    def _edited(self, edits: Sequence[Edit]) -> dict[str, Tensor | None]:
        """Encode the pictures to start from, and say which latents are drawn anew."""
        codec: Any = self._method.codec
        pixels = torch.stack([_unit(edit.picture) for edit in edits]).to(self._device)
        if isinstance(codec, nn.Module):
            held = next(iter([*codec.parameters(), *codec.buffers()]))
            pixels = pixels.to(held.dtype)
        masks = [
            np.ones(edit.picture.shape[:2], dtype=bool) if edit.mask is None else edit.mask
            for edit in edits
        ]
        # A latent is drawn when any of its pixels is.
        mask = nn.functional.max_pool2d(
            torch.from_numpy(np.stack(masks))[:, None].float(), self._each_px
        )
        return {"source": codec.encode(pixels).float(), "mask": mask[:, 0].to(self._device)}


def _faces(asks: Sequence[Draw], side_px: int) -> Tensor:
    """Stack the first reference crop of each request; grey where there is none."""
    crops = [
        _unit(ask.reference.faces[0])
        if ask.reference and ask.reference.faces
        else torch.full((3, side_px, side_px), 0.5)
        for ask in asks
    ]
    size = (side_px, side_px)
    return torch.cat(
        [
            nn.functional.interpolate(crop[None], size, mode="bicubic", antialias=True).clamp(0, 1)
            for crop in crops
        ]
    )


def _unit(picture: RGB) -> Tensor:
    """Return a picture as a tensor (3 H W) of 0 to 1."""
    return torch.tensor(picture).permute(2, 0, 1).float() / 255


def _bytes(drawn: Tensor) -> list[RGB]:
    """Turn pictures (P 3 H W) of 0 to 1 into bytes."""
    rounded = (drawn.float().clamp(0, 1) * 255).round().byte()
    return list(rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy())


def _kept(drawn: RGB, edit: Edit | None) -> RGB:
    """Put back the pixels outside the mask: a codec changes even what is not drawn."""
    if edit is None or edit.mask is None:
        return drawn
    return np.where(edit.mask[:, :, None], drawn, edit.picture)
