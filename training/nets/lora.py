"""A LoRA on a base's attention: put in, turned down, taken out, written as diffusers reads it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from training.nets.published import renamed

NAME = "subject"
WEIGHTS_FILE = "pytorch_lora_weights.safetensors"
"""What ``load_lora_weights`` looks for in a folder."""
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


class AttentionLoRA:
    """Low-rank changes to queries, keys, values and outputs of every attention layer.

    W becomes W + scale * B A, where A begins as noise of deviation 1 / rank and B as zeros. Alpha
    is the rank, so that a file without alpha means the same everywhere. A base of videos has it in
    all that it attends with: motion modules too, and the joint attention of CogVideoX.

    References:
        Hu et al., "LoRA", arXiv:2106.09685; ``train_dreambooth_lora.py`` of diffusers.
    """

    def __init__(
        self,
        network: Any,  # noqa: ANN401 - half untyped
        *,
        rank: int,
        seed: int,
        targets: Sequence[str] = TARGETS,
    ) -> None:
        """Put it into a UNet or a transformer; nothing else of it can be trained from then on.

        Args:
            network: The base.
            rank: Of the changes.
            seed: What they begin as.
            targets: Layers that get it: their names, whole or the last parts of them.
        """
        self.network = network
        self._part = "transformer" if isinstance(network, CogVideoXTransformer3DModel) else "unet"
        lora = LoraConfig(
            r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(targets)
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network.add_adapter(lora, adapter_name=NAME)
        network.requires_grad_(False)
        for weight in self.weights().values():
            weight.requires_grad_(True)

    def weights(self) -> dict[str, nn.Parameter]:
        """Return its weights by their names in the network."""
        return {name: w for name, w in self.network.named_parameters() if f".{NAME}." in name}

    def publish(self) -> dict[str, Tensor]:
        """Return its weights under the names that ``load_lora_weights`` reads."""
        weights = self.weights()
        return {theirs: weights[ours] for ours, theirs in self.names().items()}

    def adopt(self, published: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
        """Give what ``publish`` returned our names.

        Raises:
            BadWeights: A weight is missing, unknown or of another shape.
        """
        return renamed(published, self.weights(), self.names(), path)

    @contextmanager
    def strength(self, scale: float) -> Iterator[None]:
        """Use this much of it while the context lasts."""
        self._set(scale)
        try:
            yield
        finally:
            self._set(1.0)

    def eject(self) -> nn.Module:
        """Take it out and return the network as it was."""
        self.network.unload_lora()
        network: nn.Module = self.network.requires_grad_(True)
        return network

    def names(self) -> dict[str, str]:
        """Return the published name of each weight: the part of a pipeline first."""
        return {name: f"{self._part}.{name.replace(f'.{NAME}.', '.')}" for name in self.weights()}

    def _set(self, scale: float) -> None:
        for module in self.network.modules():
            if isinstance(module, LoraLayer):
                module.set_scale(NAME, scale)
