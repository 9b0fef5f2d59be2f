"""Pictures to the states of CLIP: what adapters read of a face, and what CLIP-I compares."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from training.nets.clip_presets import VISIONS
from training.nets.references import (
    model_folder,
    preset,
    read_transformer,
    seeded,
    split_reference,
)

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training pictures, arXiv:2103.00020."""


class ImageEncoder:
    """CLIP's vision tower with its projection.

    Attributes:
        tokens: Patches and the class token: 257 for CLIP-H.
        width: Of the states: 1280 for CLIP-H.
        pooled_dim: Width of ``pooled``: 1024 for CLIP-H.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - transformers has no types
        self._model = model
        config = model.config
        self.image_px = int(config.image_size)
        self.tokens = (config.image_size // config.patch_size) ** 2 + 1
        self.width, self.pooled_dim = int(config.hidden_size), int(config.projection_dim)

    @torch.inference_mode()
    def encode(self, pictures: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "B tokens dim"]:
        """Return the penultimate states, as IP-Adapter-FaceID-Plus reads them.

        Args:
            pictures: RGB in 0 to 1, of any size; squares keep their proportions.
        """
        told = self._model(self._ready(pictures), output_hidden_states=True)
        states: Tensor = told.hidden_states[-2]
        return states

    @torch.inference_mode()
    def layers(
        self, pictures: Float[Tensor, "B 3 height width"], count: int
    ) -> tuple[Float[Tensor, "B count tokens dim"], Float[Tensor, "B pooled"]]:
        """Return the states of some layers, evenly apart and not the last, and ``pooled``.

        Of 24 layers the 4th, 8th, 12th, 16th and 20th, as ConsisID (arXiv:2411.17440) takes them.
        """
        told = self._model(self._ready(pictures), output_hidden_states=True)
        depth = len(told.hidden_states) - 1
        chosen = [round(depth * (k + 1) / (count + 1)) for k in range(count)]
        return torch.stack([told.hidden_states[k] for k in chosen], dim=1), told.image_embeds

    @torch.inference_mode()
    def pooled(self, pictures: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "B dim"]:
        """Return the projected vectors whose cosine is CLIP-I, not normalised."""
        embeds: Tensor = self._model(self._ready(pictures)).image_embeds
        return embeds

    def empty(self) -> Float[Tensor, "tokens dim"]:
        """Return the states of the picture that CLIP's normalisation turns into zeros.

        It stands for no picture, as in diffusers' IP-Adapter pipelines.
        """
        mean = torch.tensor(_MEAN).view(1, 3, 1, 1)
        return self.encode(mean.expand(1, 3, self.image_px, self.image_px))[0]

    def _ready(self, pictures: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "B 3 side side"]:
        """Bring pictures to the model's size, range, device and precision."""
        size = (self.image_px, self.image_px)
        placed = pictures.to(self._model.device, torch.float32)
        if placed.shape[2:] != size:
            resized = functional.interpolate(placed, size, mode="bicubic", antialias=True)
            placed = resized.clamp(0, 1)
        mean, std = (placed.new_tensor(v).view(1, 3, 1, 1) for v in (_MEAN, _STD))
        ready: Tensor = ((placed - mean) / std).to(self._model.dtype)
        return ready


def load_image_encoder(
    reference: str,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> ImageEncoder:
    """Load CLIP's vision tower.

    Args:
        reference: ``random:tiny-clip``, ``random:clip-h``, ``random:clip-l336``, or
            ``file:<folder>`` of the model, or of a pipeline that holds ``image_encoder/``.
        device: Where it runs.
        dtype: Precision of its weights and states.
        seed: What the weights of ``random:`` are drawn from.

    Raises:
        BadValue: No preset has that name, or the reference has no known scheme.
        BadWeights: The folder does not hold the model in safetensors.
    """
    scheme, _ = split_reference(reference)
    kind: Any = CLIPVisionModelWithProjection
    if scheme == "random":
        config = CLIPVisionConfig(**preset(VISIONS, reference))
        model = seeded(lambda: kind(config), seed)
    else:
        model = read_transformer(kind, model_folder(reference, "image_encoder"))
    return ImageEncoder(model.eval().requires_grad_(False).to(device=device, dtype=dtype))
