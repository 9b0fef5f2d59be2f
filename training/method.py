"""What the trainer asks of a method, and nothing more."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

Batch = Mapping[str, Tensor]
"""One microbatch, by name; the first axis of every tensor is the samples. From the prepared
features: ``latents`` (channels x height x width), ``identity`` (raw vector of the reference
photograph), ``target_identity`` (of the photograph itself), ``text`` (tokens x dim),
``landmarks`` (5 x 2, target picture's pixels), ``mask`` (latent height x width, 1 on the face).
Drawn for the step, so that ``forward`` itself draws nothing: ``noise`` (as ``latents``),
``time`` (uniform in 0 to 1) and ``drop`` (uniform in 0 to 1)."""


@dataclass(frozen=True)
class Condition:
    """What a picture is to be of."""

    identity: Float[Tensor, "samples dim"]
    """Raw vectors, as the encoder gives them."""
    text: Float[Tensor, "samples tokens width"] | None = None
    """Hidden states of the prompt; None where the base takes no text."""


class Method(nn.Module, ABC):
    """A way to make a diffusion model keep one person's face.

    To add a method write one file in ``training/methods`` with these four answers, then name it in
    one recipe. Everything that the optimiser touches is inside this one module's ``forward``:
    otherwise distributed training does not synchronise its gradients.
    """

    @abstractmethod
    def trainable(self) -> dict[str, nn.Parameter]:
        """Name the weights that the optimiser may move."""

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return scalar losses by name: ``loss``, to descend, and its terms, for the record."""

    @abstractmethod
    def generate(
        self, condition: Condition, rng: torch.Generator, *, steps: int = 30, guidance: float = 2.0
    ) -> Float[Tensor, "samples 3 height width"]:
        """Draw one picture per row of ``condition``, RGB in 0 to 1."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what ``generate`` needs, safetensors only, and nothing that the optimiser needs."""
