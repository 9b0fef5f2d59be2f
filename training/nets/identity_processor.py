"""Keys and values of identity for attention that diffusers does not have, and their names."""

from collections.abc import Mapping
from pathlib import Path

from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from torch import Tensor, nn

from training.nets.cross_attention import CrossAttention
from training.nets.merging import Merge
from training.nets.published import renamed

COPIES = {"to_k_ip.0.weight": "to_k.weight", "to_v_ip.0.weight": "to_v.weight"}
"""Weights of an ``IdentityProcessor``, and which weights of its layer they begin as."""
OUTSIDE = {"to_k_ip.0.weight": "to_k_ip.weight", "to_v_ip.0.weight": "to_v_ip.weight"}
"""What IP-Adapter's files call them."""


class IdentityProcessor(IPAdapterAttnProcessor2_0):  # type: ignore[misc]  # has no types
    """Keys and values for identity's tokens; what is done with them is the subclass's.

    Names and shapes are those of diffusers' processor.

    Attributes:
        scale: How much of identity, in a list of one.
        merge: How it is merged with the text; ``training.nets.merging.merging`` sets it.
    """

    def __init__(self, hidden: int, width: int) -> None:
        """Make it for a cross-attention.

        Args:
            hidden: Width of the picture's states.
            width: Of the tokens.
        """
        # The number of tokens matters only where they come joined to the text.
        super().__init__(hidden, width, num_tokens=[1])
        self.merge = Merge()


class Parts:
    """What a method trains in a UNet and beside it, and what it is called in a file."""

    def __init__(
        self, inside: CrossAttention, prefix: str, own: Mapping[str, str], **beside: nn.Module
    ) -> None:
        """Name the parts.

        Args:
            inside: The processors.
            prefix: Of their names in a file, before the layer's number.
            own: Each weight of a processor, and what it is called in a file.
            beside: Modules beside the UNet, by where the method holds them.
        """
        self.inside, self.beside = inside, beside
        names = inside.published_names(prefix, own).items()
        self._names = {f"unet.{ours}": theirs for ours, theirs in names}
        self._names |= {name: name for name in self.weights() if name not in self._names}

    def weights(self) -> dict[str, nn.Parameter]:
        """Return all that is trained, by its names in the method."""
        weights = {f"unet.{name}": weight for name, weight in self.inside.weights().items()}
        for part, module in self.beside.items():
            weights |= {f"{part}.{name}": weight for name, weight in module.named_parameters()}
        return weights

    def publish(self) -> dict[str, Tensor]:
        """Return all that is trained, by its names in a file."""
        weights = self.weights()
        return {theirs: weights[ours] for ours, theirs in self._names.items()}

    def adopt(self, published: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
        """Give what ``publish`` returned our names.

        Raises:
            BadWeights: A weight is missing, unknown or of another shape.
        """
        return renamed(published, self.weights(), self._names, path)
